"""The report's results in the physical space: ours, the baseline, others and random actions, beside the paper's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blm.pipelines.charts_rates import Rate, rate_chart
from blm.pipelines.evaluation.contestants import BASELINE, OURS
from blm.pipelines.paper_layout import RANDOM, TITLES, layout, policies_of
from blm.pipelines.paper_layout import Rate as LayoutRate
from blm.pipelines.paper_tables import EPISODES_PER_CELL, PHYSICAL, TASKS, paper_rate
from blm.pipelines.report_motion import ends, motion
from blm.pipelines.report_page import Html, Section, counts, folded, note, percent, table
from blm.pipelines.workspace import read_json_if_there

PAPER_NOTE = (
    "The paper's numbers (BLM1, arXiv 2510.24161) come from a 7B backbone, other demonstrations and "
    f"{EPISODES_PER_CELL} episodes a cell; they are a reference, not a comparison on equal terms."
)
SHORT = {BASELINE: "Diffusion Policy", RANDOM: "random actions"}

Row = Mapping[str, Any]


def physical(evaluate: Path) -> Section | None:
    """Success of each cell on unseen seeds, with the other policies and the paper beside it."""
    summary = read_json_if_there(evaluate / "summary.json") or {}
    policies = policies_of(summary)
    rows: dict[str, dict[str, Row]] = {policy: {} for policy in policies}
    for row in summary.get("cells", []):
        rows[row["policy"]][row["cell"]] = row
    if OURS not in rows:
        return None
    ours = rows[OURS]
    body = _chart(rows) + note(simulated_by(summary))
    body += _cells(policies, rows, summary.get("compared", []))
    if len(ours) > 1:
        body += "<h3>By robot and task</h3>" + _by_robot(summary)
    body += note(
        "Seeds of these episodes were never collected from. Wilson intervals; an episode that broke counts as failed."
    )
    body += "".join(note(_comparison(row)) for row in summary.get("compared", []) if _is_told(row))
    body += note(PAPER_NOTE) + ends(ours) + motion(policies, rows)
    return Section(title="Physical space", anchor="physical", body=body + _paper_physical())


def simulated_by(summary: Mapping[str, Any]) -> str:
    """What simulated the episodes of a summary, as a sentence."""
    backend = summary.get("backend") or "not recorded (an evaluation of an older version)"
    return f"Simulation and robot geometry of all episodes: {backend}."


def _chart(rows: Mapping[str, Mapping[str, Row]]) -> str:
    """Our rates with their intervals, the baseline's and random ones as marks."""

    def beside(policy: str, cell: str) -> float | None:
        row = rows.get(policy, {}).get(cell)
        return row["rate"] if row else None

    return rate_chart(
        [
            Rate(
                name=cell,
                rate=row["rate"],
                low=row["low"],
                high=row["high"],
                baseline=beside(BASELINE, cell),
                random=beside(RANDOM, cell),
                paper=paper_rate(*cell.split("/")),
            )
            for cell, row in rows[OURS].items()
        ]
    )


def _cells(policies: Sequence[str], rows: Mapping[str, Mapping[str, Row]], compared: Sequence[Row]) -> str:
    """A row a cell: ours, each other trained policy with its interval and McNemar's p, random actions, the paper."""
    tests = {(row["policy"], row["cell"]): row for row in compared}
    others = [policy for policy in policies if policy not in (OURS, RANDOM)]
    head = ["cell", "success", "95 % interval", "episodes"]
    for policy in others:
        head += [SHORT.get(policy, policy), "its interval", "p of no difference"]
    head += ["random actions"] * (RANDOM in rows) + ["paper", "median steps", "failures"]
    lines = []
    for cell, row in rows[OURS].items():
        line: list[object] = [
            cell,
            Html(text=f"<b>{100 * row['rate']:.0f}&thinsp;%</b>", right=True),
            _interval(row),
            f"{row['successes']} of {row['episodes']}",
        ]
        for policy in others:
            other, test = rows[policy].get(cell), tests.get((policy, cell))
            line += [percent(other["rate"]), _interval(other)] if other else [None, None]
            line.append(f"{test['p']:.2g}" if test else None)
        if RANDOM in rows:
            random = rows[RANDOM].get(cell)
            text = f"{100 * random['rate']:.0f}&thinsp;% of {random['episodes']}" if random else ""
            line.append(Html(text=text, right=True) if text else None)
        line += [
            percent(paper_rate(*cell.split("/"))),
            row.get("median_steps"),
            counts(row.get("failures", {})),
        ]
        lines.append(line)
    return table(head, lines)


def _interval(row: Row) -> Html:
    return Html(text=f"{100 * row['low']:.0f} to {100 * row['high']:.0f}&thinsp;%", right=True)


def _is_told(row: Row) -> bool:
    """Whether a comparison is over all cells, and with somebody who was trained."""
    return bool(row["cell"] == "all" and row["policy"] != RANDOM)


def _comparison(row: Row) -> str:
    """What McNemar's test says over all cells."""
    other = SHORT.get(row["policy"], row["policy"])
    return (
        f"Of {row['pairs']} scenes that both met, {row['only_first']} were done by {TITLES[OURS]}'s policy alone and"
        f" {row['only_second']} by {other} alone: McNemar's exact p = {row['p']:.2g}."
    )


def _by_robot(summary: Mapping[str, Any]) -> str:
    """The paper's layout: a row a policy and robot, a column a task, averages; then the paper's own rows."""
    found = layout(summary)
    lines: list[list[object]] = []
    before = ""
    for row in found.rows:
        average = Html(text=f"<b>{row.average.percent:.1f}</b>", right=True) if row.average else None
        lines.append([row.policy if row.policy != before else "", row.robot, *map(_shown, row.rates), average])
        before = row.policy
    return table(("policy", "robot", *found.tasks, "average, %"), lines)


def _shown(rate: LayoutRate | None) -> object:
    if rate is None:
        return None
    if rate.interval is None:
        return Html(text=f"{rate.percent:.4g}", right=True)
    low, high = rate.interval
    return Html(text=f"<b>{rate.percent:.0f}</b><small>{low:.0f} to {high:.0f}</small>", right=True)


def _paper_physical() -> str:
    """All published physical results, folded."""
    rows = [
        [model if i == 0 else "", robot, *rates.values(), round(sum(rates.values()) / len(rates), 1)]
        for model, robots in PHYSICAL.items()
        for i, (robot, rates) in enumerate(robots.items())
    ]
    return folded("All physical results of the paper, %", table(("model", "robot", *TASKS, "average"), rows))
