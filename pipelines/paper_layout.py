"""Success in the layout of the paper: a row a policy and robot, a column a task, averages; its own rows below ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from blm.pipelines.evaluation.contestants import BASELINE, OURS
from blm.pipelines.paper_tables import PHYSICAL, ROBOTS, TASKS

RANDOM = "random"
TITLES = {OURS: "this run", BASELINE: "this run's Diffusion Policy", RANDOM: "random actions"}
"""How tables name policies; others have names of their own."""
NEAREST = (
    "BLM1",
    "Diffusion Policy",
    "Diffusion Policy, one model a robot",
    "Diffusion Policy, one model a cell",
)
"""Published rows of the method and the baseline that a run has too."""
ALL_ROBOTS = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """One success rate in percent, with its interval if it is our own."""

    percent: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutRow:
    """One robot of one policy."""

    policy: str
    """As tables name it."""
    robot: str
    """`all` for the averages over robots."""
    rates: tuple[Rate | None, ...]
    """By task; None for a cell that was not evaluated."""
    average: Rate | None
    """Over the tasks, each counting alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The whole table."""

    tasks: tuple[str, ...]
    rows: tuple[LayoutRow, ...]


def policies_of(summary: Mapping[str, Any]) -> list[str]:
    """The policies of an evaluation in the order of tables: ours, the baseline, others, random actions."""
    there = list(dict.fromkeys(row["policy"] for row in summary.get("cells", [])))
    others = [policy for policy in there if policy not in TITLES]
    return [policy for policy in (OURS, BASELINE, *others, RANDOM) if policy in there]


def layout(summary: Mapping[str, Any], published: Sequence[str] = NEAREST) -> Layout:
    """The table of a `summary.json`; the `published` models' rows of the same cells below, where the paper has them."""
    cells = list(dict.fromkeys(row["cell"] for row in summary.get("cells", [])))
    robots = tuple(dict.fromkeys(cell.partition("/")[0] for cell in cells))
    tasks = tuple(dict.fromkeys(cell.partition("/")[2] for cell in cells))
    found = {
        (row["policy"], row["cell"]): Rate(percent=100 * row["rate"], interval=(100 * row["low"], 100 * row["high"]))
        for row in summary.get("cells", [])
    }
    rows: list[LayoutRow] = []
    for policy in policies_of(summary):
        own = {cell: rate for (name, cell), rate in found.items() if name == policy}
        rows += _rows(TITLES.get(policy, policy), robots, tasks, own)
    known = [robot for robot in robots if robot in ROBOTS]
    for model in published if known and set(tasks) <= set(TASKS) else ():
        theirs = {
            f"{robot}/{task}": Rate(percent=float(PHYSICAL[model][robot][task]))
            for robot in known
            for task in tasks
            if f"{robot}/{task}" in cells
        }
        rows += _rows(f"paper: {model}", known, tasks, theirs)
    return Layout(tasks=tasks, rows=tuple(rows))


def _rows(policy: str, robots: Sequence[str], tasks: Sequence[str], rates: Mapping[str, Rate]) -> list[LayoutRow]:
    """A policy's rows: its robots, then all of them together if they are several."""
    rows = [
        LayoutRow(policy=policy, robot=robot, rates=mine, average=_mean(mine))
        for robot in robots
        for mine in [tuple(rates.get(f"{robot}/{task}") for task in tasks)]
    ]
    if len(rows) > 1:
        means = tuple(_mean([row.rates[i] for row in rows]) for i in range(len(tasks)))
        rows.append(
            LayoutRow(policy=policy, robot=ALL_ROBOTS, rates=means, average=_mean([row.average for row in rows]))
        )
    return rows


def _mean(rates: Sequence[Rate | None]) -> Rate | None:
    """Without an interval: cells are not one sample."""
    known = [rate.percent for rate in rates if rate is not None]
    return Rate(percent=fmean(known)) if known else None


def text_table(table: Layout) -> str:
    """The table for a terminal: in percent, our own with their intervals."""
    widths = [max(len(task), 11) + 2 for task in table.tasks]
    head = "  " + f"{'success, %':<14}" + "".join(f"{task:>{w}}" for task, w in zip(table.tasks, widths, strict=True))
    lines = [head + f"{'average':>10}"]
    for i, row in enumerate(table.rows):
        if i == 0 or row.policy != table.rows[i - 1].policy:
            lines.append(f"  {row.policy}")
        values = "".join(f"{_text(rate):>{w}}" for rate, w in zip(row.rates, widths, strict=True))
        average = f"{row.average.percent:.1f}" if row.average else "-"
        lines.append(f"    {row.robot:<12}{values}{average:>10}")
    return "\n".join(lines)


def _text(rate: Rate | None) -> str:
    if rate is None:
        return "-"
    if rate.interval is None:
        return f"{rate.percent:.4g}" if rate.percent == round(rate.percent) else f"{rate.percent:.1f}"
    low, high = rate.interval
    return f"{rate.percent:.0f} ({low:.0f}-{high:.0f})"
