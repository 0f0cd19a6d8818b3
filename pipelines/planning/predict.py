"""A whole run on a cluster, predicted: every stage's phases, time, money, bytes and first bottleneck."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blm.pipelines.config import RunConfig
from blm.pipelines.planning import data_stages, model_stages
from blm.pipelines.planning.clusters import Cluster
from blm.pipelines.planning.costs import Costs
from blm.pipelines.planning.phases import Phase
from blm.pipelines.planning.stage_plan import Setting, StagePlan
from blm.pipelines.planning.workload import count

PLANNERS = (
    data_stages.collect,
    data_stages.render,
    data_stages.corpora,
    model_stages.stage1,
    model_stages.intents,
    model_stages.stage2,
    model_stages.evaluate,
)
"""One a stage, in order. `report` takes a second, and `baseline` is left out unless it is asked for: no costs yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """All stages of a run, one after another."""

    stages: Sequence[StagePlan]
    cluster: Cluster
    storage_usd_gb_month: float

    @property
    def seconds(self) -> float:
        """Wall time."""
        return sum(stage.seconds for stage in self.stages)

    def usd(self, stage: StagePlan) -> float:
        """Of a stage: the head and the nodes that it uses, while it lasts."""
        return stage.seconds / 3600 * self.cluster.usd_h(stage.kinds)

    @property
    def usd_used(self) -> float:
        """With an autoscaler that gives back the nodes that a stage does not use."""
        return sum(self.usd(stage) for stage in self.stages)

    @property
    def usd_held(self) -> float:
        """With all nodes held from the beginning to the end."""
        return self.seconds / 3600 * self.cluster.usd_h(frozenset(self.cluster.groups))

    @property
    def gigabytes(self) -> float:
        """What all stages leave."""
        return sum(stage.output_bytes for stage in self.stages) / 1e9

    @property
    def usd_month(self) -> float:
        """For keeping it."""
        return self.gigabytes * self.storage_usd_gb_month

    @property
    def slowest(self) -> StagePlan:
        """The stage that takes longest."""
        return max(self.stages, key=lambda stage: stage.seconds)

    def by_name(self) -> Mapping[str, StagePlan]:
        """The stages by name."""
        return {stage.name: stage for stage in self.stages}


def predict(config: RunConfig, costs: Costs, cluster: Cluster, *, scale: float = 1.0) -> RunPlan:
    """The plan of a run. UserError for work that no node can do or of which no costs are known."""
    setting = Setting(work=count(config, costs, scale=scale), costs=costs, cluster=cluster)
    stages = [planner(setting) for planner in PLANNERS]
    first = stages[0]
    if cluster.local:  # a cluster is up already
        first = first.with_phase(Phase(name="Ray", start_s=costs.starts.ray_s), first=True)
    return RunPlan(stages=[first, *stages[1:]], cluster=cluster, storage_usd_gb_month=costs.storage.usd_gb_month)
