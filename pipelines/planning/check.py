"""Predicted against measured: what the costs say of a run that is finished, stage by stage."""

from dataclasses import dataclass
from pathlib import Path

from blm.pipelines.planning.clusters import this_machine
from blm.pipelines.planning.costs import Costs
from blm.pipelines.planning.measure import finished, run_config
from blm.pipelines.planning.predict import predict
from blm.pipelines.show import duration

GOAL = 0.25
"""Largest error of a stage that is called a hit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """One stage, predicted and measured."""

    stage: str
    predicted_s: float
    measured_s: float
    attempts: int

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured; negative: predicted too short."""
        return self.predicted_s / self.measured_s - 1.0

    @property
    def hit(self) -> bool:
        """Whether the error is within the goal."""
        return abs(self.error) <= GOAL


def check(run: Path, costs: Costs) -> list[Checked]:
    """Every finished stage of a run on one machine, in order. UserError if the folder holds no run.

    Only the configuration is used for the prediction: how many frames or tokens the run came to have is predicted too.
    """
    done = finished(run)
    config = run_config(run, done)
    machines = [manifest["machine"]["cores"] for manifest in done.values()]
    cores = min([config.resources.num_cpus, *machines])
    plans = predict(config, costs, this_machine(costs, cores=cores)).by_name()
    return [
        Checked(
            stage=name,
            predicted_s=plans[name].seconds,
            measured_s=manifest["wall_s"],
            attempts=manifest.get("attempts", 1),
        )
        for name, manifest in done.items()
        if name in plans
    ]


def together(rows: list[Checked]) -> Checked:
    """All stages as one."""
    return Checked(
        stage="all",
        predicted_s=sum(row.predicted_s for row in rows),
        measured_s=sum(row.measured_s for row in rows),
        attempts=max((row.attempts for row in rows), default=1),
    )


def check_table(rows: list[Checked], costs: Costs) -> str:
    """The comparison as text, with what belongs to an honest reading of it."""
    head = f"  {'stage':<10}{'predicted':>14}{'measured':>14}{'error':>8}"
    lines = [f"  costs: {costs.measured_on}", head]
    for row in [*rows, together(rows)]:
        note = f"   resumed {row.attempts - 1} times" if row.attempts > 1 and row.stage != "all" else ""
        lines.append(
            f"  {row.stage:<10}{duration(row.predicted_s):>14}{duration(row.measured_s):>14}{row.error:>+8.0%}{note}"
        )
    hits = sum(row.hit for row in rows)
    lines.append(f"  {hits} of {len(rows)} stages within {GOAL:.0%}")
    return "\n".join(lines)
