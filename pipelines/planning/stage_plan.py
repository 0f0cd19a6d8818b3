"""What is predicted of one stage, and what every stage's prediction is made from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from blm.pipelines.planning.clusters import Cluster, Group
from blm.pipelines.planning.costs import Costs
from blm.pipelines.planning.gpu import Gpu
from blm.pipelines.planning.phases import Phase, alone
from blm.pipelines.planning.workload import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """One stage of a run on a cluster."""

    name: str
    phases: Sequence[Phase]
    kinds: frozenset[str]
    """Of nodes that it works on, beside the head."""
    output_bytes: float
    count: float
    """How many units it makes."""
    unit: str

    @property
    def makes(self) -> str:
        """The number of units, in words."""
        number = f"{self.count / 1e6:,.1f} M" if self.count >= 1e7 else f"{self.count:,.0f}"
        return f"{number} {self.unit}s"

    @property
    def seconds(self) -> float:
        """Wall time: phases follow one another."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def longest(self) -> Phase:
        """The phase that takes longest."""
        return max(self.phases, key=lambda phase: phase.seconds)

    @property
    def bottleneck(self) -> str:
        """What the longest phase waits for, and which phase that is."""
        return f"{self.longest.bottleneck} ({self.longest.name})"

    def with_phase(self, phase: Phase, *, first: bool = False) -> "StagePlan":
        """The same with one more phase."""
        phases = [phase, *self.phases] if first else [*self.phases, phase]
        return replace(self, phases=phases)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Work, costs and nodes."""

    work: Workload
    costs: Costs
    cluster: Cluster

    @property
    def device(self) -> str:
        """Where models run: on GPUs if the configuration says so and the cluster is not one machine without any."""
        return "cpu" if self.cluster.local else self.work.config.resources.device

    def group(self, stage: str, role: str) -> Group:
        """The nodes on which a role of a stage works."""
        return self.cluster.group_for(stage, role, device=self.device)

    def simulators(self, stage: str) -> tuple[Group, int]:
        """The nodes that simulate, and how many worker processes: one a core; on one machine as many as configured."""
        group = self.group(stage, "simulator")
        if self.cluster.local:
            return group, min(group.cores, self.work.config.resources.simulators)
        return group, group.cores

    def gpu(self, group: Group) -> Gpu:
        """A GPU of a group of nodes."""
        return Gpu(costs=self.costs.gpu, peak_tflops=group.node.peak_tflops)

    def manifest(self, files: float, output_bytes: float) -> Phase:
        """The end of every stage: the driver lists and hashes what there is; with a store it has to bring it first."""
        driver = self.costs.driver
        parts = alone(files * driver.file_s + output_bytes / (1e9 * driver.hash_gb_s))
        if self.cluster.store:
            parts |= alone(output_bytes / self.cluster.driver_bandwidth, what="storage")
        return Phase(name="manifest", parts=parts)
