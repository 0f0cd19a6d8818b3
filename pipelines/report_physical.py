"""The report's results in the physical space: ours, the baseline and random actions, beside the paper's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blm.pipelines.charts import Rate, rate_chart
from blm.pipelines.evaluation.contestants import BASELINE, OURS, POLICIES
from blm.pipelines.paper_tables import EPISODES_PER_CELL, PHYSICAL, ROBOTS, TASKS, paper_rate
from blm.pipelines.report_page import Html, Section, counts, folded, note, percent, table
from blm.pipelines.workspace import read_json_if_there

PAPER_NOTE = (
    "The paper's numbers (BLM1, arXiv 2510.24161) come from a 7B backbone, other demonstrations and "
    f"{EPISODES_PER_CELL} episodes a cell; they are a reference, not a comparison on equal terms."
)
TITLES = {OURS: "this run", BASELINE: "this run's Diffusion Policy", "random": "random actions"}
PAPER_MODELS = (
    "BLM1",
    "Diffusion Policy",
    "Diffusion Policy, one model a robot",
    "Diffusion Policy, one model a cell",
)
"""Published rows that stand below a run's own."""

Row = Mapping[str, Any]


def physical(evaluate: Path) -> Section | None:
    """Success of each cell on unseen seeds, with the baseline, random actions and the paper beside it."""
    summary = read_json_if_there(evaluate / "summary.json") or {}
    rows: dict[str, dict[str, Row]] = {policy: {} for policy in POLICIES}
    for row in summary.get("cells", []):
        rows.setdefault(row["policy"], {})[row["cell"]] = row
    ours, baseline, random = (rows[policy] for policy in POLICIES)
    if not ours:
        return None
    rates = [
        Rate(
            name=name,
            rate=row["rate"],
            low=row["low"],
            high=row["high"],
            baseline=baseline[name]["rate"] if name in baseline else None,
            random=random[name]["rate"] if name in random else None,
            paper=paper_rate(*name.split("/")),
        )
        for name, row in ours.items()
    ]
    compared = {row["cell"]: row for row in summary.get("compared", []) if row["policy"] == BASELINE}
    body = rate_chart(rates) + _cells(ours, baseline, random, compared)
    if len(ours) > 1:
        body += "<h3>By robot and task</h3>" + _by_robot(rows)
    body += note(
        "Seeds of these episodes were never collected from. Wilson intervals; an episode that broke counts as failed."
    )
    if "all" in compared:
        body += note(_comparison(compared["all"]))
    return Section(title="Physical space", anchor="physical", body=body + note(PAPER_NOTE) + _paper_physical())


def _cells(
    ours: Mapping[str, Row], baseline: Mapping[str, Row], random: Mapping[str, Row], compared: Mapping[str, Row]
) -> str:
    """A row a cell."""
    head = ["cell", "success", "95 % interval", "episodes", "random actions", "paper", "median steps", "failures"]
    lines = [_cell_row(row, random.get(name)) for name, row in ours.items()]
    if baseline:
        head[4:4] = ["Diffusion Policy", "its interval", "p of no difference"]
        for (name, _), line in zip(ours.items(), lines, strict=True):
            other, test = baseline.get(name), compared.get(name)
            line[4:4] = [
                percent(other["rate"]) if other else None,
                _interval(other) if other else None,
                f"{test['p']:.2g}" if test else None,
            ]
    return table(head, lines)


def _cell_row(row: Row, random: Row | None) -> list[object]:
    beside = (
        None
        if random is None
        else Html(text=f"{100 * random['rate']:.0f}&thinsp;% of {random['episodes']}", right=True)
    )
    return [
        row["cell"],
        Html(text=f"<b>{100 * row['rate']:.0f}&thinsp;%</b>", right=True),
        _interval(row),
        f"{row['successes']} of {row['episodes']}",
        beside,
        percent(paper_rate(*row["cell"].split("/"))),
        row.get("median_steps"),
        counts(row.get("failures", {})),
    ]


def _interval(row: Row) -> Html:
    return Html(text=f"{100 * row['low']:.0f} to {100 * row['high']:.0f}&thinsp;%", right=True)


def _comparison(row: Row) -> str:
    """What McNemar's test says over all cells."""
    return (
        f"Of {row['pairs']} scenes that both met, {row['only_first']} were done by this run's policy alone and"
        f" {row['only_second']} by Diffusion Policy alone: McNemar's exact p = {row['p']:.2g}."
    )


def _by_robot(rows: Mapping[str, Mapping[str, Row]]) -> str:
    """A row a policy and robot, a column a task, averages; then what the paper has of these robots and tasks."""
    names = list(rows[OURS])
    robots = list(dict.fromkeys(name.split("/")[0] for name in names))
    tasks = list(dict.fromkeys(name.split("/")[1] for name in names))
    lines: list[list[object]] = []
    for policy in [policy for policy in POLICIES if rows.get(policy)]:
        for i, robot in enumerate(robots):
            mine = [rows[policy].get(f"{robot}/{task}") for task in tasks]
            present = [row["rate"] for row in mine if row is not None]
            average = Html(text=f"<b>{100 * sum(present) / len(present):.1f}</b>", right=True) if present else None
            lines.append([TITLES[policy] if i == 0 else "", robot, *map(_rate_of, mine), average])
    for model in PAPER_MODELS if set(tasks) <= set(TASKS) else ():
        for i, robot in enumerate(robot for robot in robots if robot in ROBOTS):
            published = [PHYSICAL[model][robot][task] if f"{robot}/{task}" in names else None for task in tasks]
            known = [rate for rate in published if rate is not None]
            lines.append([f"paper: {model}" if i == 0 else "", robot, *published, round(sum(known) / len(known), 1)])
    return table(("policy", "robot", *tasks, "average, %"), lines)


def _rate_of(row: Row | None) -> object:
    if row is None:
        return None
    return Html(
        text=f"<b>{100 * row['rate']:.0f}</b><small>{100 * row['low']:.0f} to {100 * row['high']:.0f}</small>",
        right=True,
    )


def _paper_physical() -> str:
    """All published physical results, folded."""
    rows = [
        [model if i == 0 else "", robot, *rates.values(), round(sum(rates.values()) / len(rates), 1)]
        for model, robots in PHYSICAL.items()
        for i, (robot, rates) in enumerate(robots.items())
    ]
    return folded("All physical results of the paper, %", table(("model", "robot", *TASKS, "average"), rows))
