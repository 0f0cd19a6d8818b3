"""What each cell of a dataset is like: how many episodes, how long, how successful, how varied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blm.pipelines.inspection.facts import Facts
from blm.pipelines.inspection.findings import Findings

SAME_PLACE_CM = 0.5
"""Objects that start closer together than this, on average, start in the same place."""
FEWER = 0.5
"""A cell with less than this share of the largest one's episodes is scarce."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRow:
    """One cell. Shares are None where the data do not tell."""

    cell: str
    episodes: int
    frames: int
    shortest: int
    median: float
    longest: int
    success: float | None
    instructions: int
    object_spread_cm: float | None
    """Standard deviation of the object's first position, over both directions of the table."""
    goal_spread_cm: float | None
    first_plan: float | None
    """Share of the kept episodes that the very first plan made."""
    disturbed: float | None
    """Share that begins with a disturbance."""
    roughness: float
    """Median root mean square jerk, rad/s^3."""


def describe(cell: str, facts: Sequence[Facts]) -> CellRow:
    """The row of a cell's episodes."""
    lengths = np.array([one.length for one in facts])
    return CellRow(
        cell=cell,
        episodes=len(facts),
        frames=int(lengths.sum()),
        shortest=int(lengths.min()),
        median=float(np.median(lengths)),
        longest=int(lengths.max()),
        success=_share(facts, "success"),
        instructions=len({one.task for one in facts}),
        object_spread_cm=spread_cm([one.object_start_m for one in facts if one.object_start_m is not None]),
        goal_spread_cm=spread_cm([one.goal_start_m for one in facts if one.goal_start_m is not None]),
        first_plan=_share(facts, "first_plan"),
        disturbed=_share(facts, "disturbed"),
        roughness=round(float(np.median([one.roughness for one in facts])), 2),
    )


def _share(facts: Sequence[Facts], key: str) -> float | None:
    known = [bool(one.extra[key]) for one in facts if one.extra.get(key) is not None]
    return round(sum(known) / len(known), 4) if known else None


def spread_cm(places_m: Sequence[tuple[float, ...]]) -> float | None:
    """Root mean square distance in the plane of the table from their mean, in cm; None without places."""
    if not places_m:
        return None
    flat = np.array(places_m)[:, :2]
    return round(100 * float(np.sqrt(((flat - flat.mean(axis=0)) ** 2).sum(axis=1).mean())), 2)


def check_cells(rows: Sequence[CellRow], findings: Findings) -> None:
    """Warnings about cells that fail, are scarce, or always begin alike."""
    most = max((row.episodes for row in rows), default=0)
    for row in rows:
        if row.success is not None and row.success < 1:
            failed = row.episodes - round(row.success * row.episodes)
            findings.warn(
                "cells", "episodes that do not end in success", f"{row.cell} ({failed} of {row.episodes})", count=failed
            )
        if row.episodes < FEWER * most:
            findings.warn(
                "cells", f"less than half as many episodes as others ({most})", f"{row.cell} ({row.episodes})"
            )
        if row.episodes >= 5 and row.object_spread_cm is not None and row.object_spread_cm < SAME_PLACE_CM:
            findings.warn(
                "cells", "the object always starts in the same place", f"{row.cell} ({row.object_spread_cm} cm)"
            )
    findings.looked_at("cells", f"{len(rows)} cell{'s' if len(rows) != 1 else ''}")


COLUMNS: Mapping[str, str] = {
    "episodes": "episodes",
    "frames": "frames",
    "length": "min/median/max",
    "success": "success",
    "instructions": "phrasings",
    "object": "object ±cm",
    "goal": "goal ±cm",
    "first_plan": "first plan",
    "disturbed": "disturbed",
    "roughness": "jerk rad/s³",
}
"""Columns of the table and their headings."""


def shown(row: CellRow) -> dict[str, str]:
    """A row's values as text, by column; empty where the data do not tell."""

    def percent(share: float | None) -> str:
        return "" if share is None else f"{100 * share:.0f}%"

    def centimetres(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    return {
        "episodes": str(row.episodes),
        "frames": str(row.frames),
        "length": f"{row.shortest}/{row.median:.0f}/{row.longest}",
        "success": percent(row.success),
        "instructions": str(row.instructions),
        "object": centimetres(row.object_spread_cm),
        "goal": centimetres(row.goal_spread_cm),
        "first_plan": percent(row.first_plan),
        "disturbed": percent(row.disturbed),
        "roughness": f"{row.roughness:.3g}" if row.roughness else "",
    }


MOST_LINES = 40
"""Rows of the table on a terminal; datasets of others may have a task an episode."""


def table_lines(cells: Sequence[CellRow]) -> list[str]:
    """The table on a terminal; columns that say nothing are left out."""
    rows = cells[:MOST_LINES]
    texts = [shown(row) for row in rows]
    columns: dict[str, Any] = {name: head for name, head in COLUMNS.items() if any(text[name] for text in texts)}
    width = max([len(row.cell) for row in rows] + [4])
    widths = {name: max([len(head)] + [len(text[name]) for text in texts]) for name, head in columns.items()}
    head = f"  {'cell':<{width}}" + "".join(f"  {title:>{widths[name]}}" for name, title in columns.items())
    body = [
        f"  {row.cell:<{width}}" + "".join(f"  {text[name]:>{widths[name]}}" for name in columns)
        for row, text in zip(rows, texts, strict=True)
    ]
    more = [f"  and {len(cells) - len(rows)} more"] if len(cells) > len(rows) else []
    return [head, *body, *more]
