"""The inspection page's own charts, as inline SVG in the manner of `charts`."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from blm.pipelines.charts import number, ticks
from blm.pipelines.inspection.facts import Facts

WIDTH = 760


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One row of a span chart."""

    name: str
    low: float
    middle: float
    high: float
    note: str = ""
    """Told when the mouse rests on it."""


def span_chart(spans: Sequence[Span], *, label: str, low: float | None = None, high: float | None = None) -> str:
    """From least to greatest with a dot between, one row each."""
    if not spans:
        return ""
    row_px, left, right, top = 24, 210, 24, 6
    height = top + row_px * len(spans) + 40
    marks = ticks(
        min(span.low for span in spans) if low is None else low,
        max(span.high for span in spans) if high is None else high,
    )

    def px(value: float) -> float:
        return left + (value - marks[0]) / (marks[-1] - marks[0]) * (WIDTH - left - right)

    parts = []
    for mark in marks:
        parts.append(f"<line class='grid' x1='{px(mark):.1f}' x2='{px(mark):.1f}' y1='{top}' y2='{height - 36}'/>")
        parts.append(f"<text x='{px(mark):.1f}' y='{height - 22}' text-anchor='middle'>{number(mark)}</text>")
    for i, span in enumerate(spans):
        y = top + row_px * (i + 0.5)
        parts.append(f"<text class='row' x='{left - 12}' y='{y + 4:.1f}' text-anchor='end'>{escape(span.name)}</text>")
        parts.append(
            f"<line class='interval c0' x1='{px(span.low):.1f}' x2='{px(span.high):.1f}' y1='{y}' y2='{y}'>"
            f"<title>{escape(f'{span.name}: {span.note}')}</title></line>"
            f"<circle class='dot c0' cx='{px(span.middle):.1f}' cy='{y}' r='4'/>"
        )
    middle = (left + WIDTH - right) / 2
    parts.append(f"<text x='{middle}' y='{height - 4}' text-anchor='middle'>{escape(label)}</text>")
    return _svg("".join(parts), height, label)


def start_charts(cells: dict[str, list[Facts]]) -> str:
    """Where objects (blue) and goals (orange) are in the first frame, from above, the robot at the bottom."""
    placed = {cell: [one for one in facts if one.object_start_m and one.goal_start_m] for cell, facts in cells.items()}
    placed = {cell: facts for cell, facts in placed.items() if facts}
    if not placed:
        return ""
    every = np.array(
        [place for facts in placed.values() for one in facts for place in (one.object_start_m, one.goal_start_m)]
    )
    centre = (every[:, :2].max(axis=0) + every[:, :2].min(axis=0)) / 2
    reach_m = max(0.05, float(np.abs(every[:, :2] - centre).max()) * 1.1)
    columns, side, gap, head = 4, 172, 18, 20
    parts = []
    for place, (cell, facts) in enumerate(placed.items()):
        x0, y0 = (place % columns) * (side + gap), (place // columns) * (side + gap + head) + head
        parts.append(f"<text class='row' x='{x0}' y='{y0 - 6}'>{escape(cell)}</text>")
        parts.append(f"<rect class='grid' x='{x0}' y='{y0}' width='{side}' height='{side}' fill='none'/>")
        for one in facts:
            for colour, spot in (("c1", one.goal_start_m), ("c0", one.object_start_m)):
                assert spot is not None
                along, across = (spot[0] - centre[0]) / reach_m, (spot[1] - centre[1]) / reach_m
                cx, cy = x0 + side / 2 * (1 - across), y0 + side / 2 * (1 - along)
                parts.append(
                    f"<circle class='dot {colour}' cx='{cx:.1f}' cy='{cy:.1f}' r='2.5' opacity='.6'>"
                    f"<title>{escape(one.label)}</title></circle>"
                )
    rows = -(-len(placed) // columns)
    keys = "<span><i class='key dot c0'></i>object</span><span><i class='key dot c1'></i>goal</span>"
    note = f"<span>each square is {200 * reach_m:.0f} cm wide, seen from above, the robot below it</span>"
    return _svg("".join(parts), rows * (side + gap + head), "where objects and goals start") + (
        f"<p class='legend'>{keys}{note}</p>"
    )


def _svg(body: str, height: int, label: str) -> str:
    return (
        f"<div class='scroll'><svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{escape(label, quote=True)}'>"
        f"{body}</svg></div>"
    )
