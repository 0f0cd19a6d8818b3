"""What episodes came to, how long successes took, and how smoothly the robot moved: a part of the physical section."""

from collections.abc import Mapping, Sequence
from typing import Any

from blm.pipelines.charts_rates import parts_chart
from blm.pipelines.paper_layout import TITLES
from blm.pipelines.report_page import Html, note, table

Row = Mapping[str, Any]

SUCCESS = "success"
ENDS = {
    "not_at_goal": "moved, not at the goal",
    "dropped": "dropped",
    "not_moved": "reached, not moved",
    "not_reached": "never reached",
}
"""Reasons of failure that are the policy's doing, from near the goal to far from it."""
BROKEN = "error"


def ends(rows: Mapping[str, Row]) -> str:
    """A bar a cell of one policy: successes, and the reasons of failure; empty without episodes.

    rows: of a summary, by cell. Reasons that are no policy's doing are one part, as are unknown ones.
    """
    shares = {cell: _shares(row) for cell, row in rows.items() if row["episodes"]}
    if not shares:
        return ""
    names = (SUCCESS, *ENDS.values(), BROKEN)
    return "<h3>What episodes came to</h3>" + parts_chart(shares, names, "outcomes of episodes")


def _shares(row: Row) -> dict[str, float]:
    found = {SUCCESS: row["rate"]}
    for reason, count in row.get("failures", {}).items():
        name = ENDS.get(reason, BROKEN)
        found[name] = found.get(name, 0.0) + count / row["episodes"]
    return found


def motion(policies: Sequence[str], rows: Mapping[str, Mapping[str, Row]]) -> str:
    """Time to success and jerk by cell and policy; empty where no episode was measured.

    rows: of a summary, by policy and cell.
    """
    measured = [
        policy for policy in policies if any(row.get("median_jerk_rad_s3") is not None for row in rows[policy].values())
    ]
    if not measured:
        return ""
    cells = list(dict.fromkeys(cell for policy in measured for cell in rows[policy]))
    titles = [TITLES.get(policy, policy) for policy in measured]
    head = ("cell", *(f"{title}: time, s" for title in titles), *(f"{title}: jerk, rad/s\u00b3" for title in titles))
    lines: list[list[object]] = []
    for cell in cells:
        found = [rows[policy].get(cell, {}) for policy in measured]
        times = [_number(row.get("median_time_s"), 1) for row in found]
        lines.append([cell, *times, *(_number(row.get("median_jerk_rad_s3"), 0) for row in found)])
    return (
        "<h3>Time and smoothness</h3>"
        + table(head, lines)
        + note(
            "Medians: simulated seconds until the task was done, of successes; root mean square jerk of the arm's"
            " joints as they moved, of all episodes."
        )
    )


def _number(value: float | None, digits: int) -> object:
    return None if value is None else Html(text=f"{value:,.{digits}f}", right=True)
