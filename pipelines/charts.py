"""Charts as inline SVG strings, drawn from data: no library, no script, readable in light and dark.

Colours are CSS classes of the page (`report_page.STYLE`); all text is escaped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Scale = Callable[[float], float]
WIDTH_PX, HEIGHT_PX = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve of a line chart."""

    name: str
    points: tuple[tuple[float, float], ...]
    """(x, y), by x."""
    band: tuple[tuple[float, float], ...] = ()
    """(low, high) of every point, drawn as an area behind the curve; none: no area."""


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high]: steps of 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    rough = span / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten that cover [low, high], both above zero; only powers where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [factor * 10.0**power for power in powers for factor in ((1, 2, 5) if len(powers) <= 3 else (1,))]
    below = max((mark for mark in marks if mark <= low), default=marks[0])
    above = min((mark for mark in marks if mark >= high), default=marks[-1])
    return [mark for mark in marks if below <= mark <= above]


def number(value: float) -> str:
    """A tick's label: 0.05, 12, 3k, 1e-05."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def line_chart(lines: Sequence[Line], *, x_label: str, y_label: str, log_y: bool = False) -> str:
    """Curves over a common x axis. Points that are not finite (or not above zero on a log axis) are left out."""
    kept = [line for line in (_drawable(line, log_y=log_y) for line in lines) if line.points]
    if not kept:
        return "<p class='quiet'>no data</p>"
    xs = [x for line in kept for x, _ in line.points]
    ys = [y for line in kept for y in (*(y for _, y in line.points), *(y for ends in line.band for y in ends))]
    x_ticks = ticks(min(xs), max(xs))
    y_ticks = log_ticks(min(ys), max(ys)) if log_y else ticks(min(ys), max(ys))
    scale_y = math.log10 if log_y else float

    def px(x: float) -> float:
        return LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH_PX - LEFT - RIGHT)

    def py(y: float) -> float:
        low, high = scale_y(y_ticks[0]), scale_y(y_ticks[-1])
        share = (scale_y(y) - low) / ((high - low) or 1.0)
        return HEIGHT_PX - BOTTOM - share * (HEIGHT_PX - TOP - BOTTOM)

    parts = [_axes(x_ticks, y_ticks, px, py, x_label=x_label, y_label=y_label)]
    for i, line in enumerate(kept):
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in line.points)
        last = line.points[-1]
        if line.band:
            edge = [(x, high) for (x, _), (_, high) in zip(line.points, line.band, strict=True)]
            edge += [(x, low) for (x, _), (low, _) in zip(line.points[::-1], line.band[::-1], strict=True)]
            area = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in edge)
            parts.append(f"<polygon class='band c{i % 6}' points='{area}'/>")
        parts.append(f"<polyline class='line c{i % 6}' points='{path}'><title>{escape(line.name)}</title></polyline>")
        parts.append(
            f"<circle class='dot c{i % 6}' cx='{px(last[0]):.1f}' cy='{py(last[1]):.1f}' r='3'>"
            f"<title>{escape(line.name)}: {last[1]:.4g} at {last[0]:g}</title></circle>"
        )
    return svg("".join(parts), WIDTH_PX, HEIGHT_PX, f"{y_label} over {x_label}") + legend([line.name for line in kept])


def _drawable(line: Line, *, log_y: bool) -> Line:
    """The line without points that have no place on the chart."""
    good = [i for i, (x, y) in enumerate(line.points) if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y)]
    band = tuple(line.band[i] for i in good) if line.band else ()
    return Line(name=line.name, points=tuple(line.points[i] for i in good), band=band)


def _axes(x_ticks: list[float], y_ticks: list[float], px: Scale, py: Scale, *, x_label: str, y_label: str) -> str:
    """Grid, tick labels and axis titles."""
    parts = []
    for y in y_ticks:
        parts.append(f"<line class='grid' x1='{LEFT}' x2='{WIDTH_PX - RIGHT}' y1='{py(y):.1f}' y2='{py(y):.1f}'/>")
        parts.append(f"<text class='tick' x='{LEFT - 8}' y='{py(y) + 4:.1f}' text-anchor='end'>{number(y)}</text>")
    base = HEIGHT_PX - BOTTOM
    for x in x_ticks:
        parts.append(f"<line class='grid' x1='{px(x):.1f}' x2='{px(x):.1f}' y1='{base}' y2='{base + 4}'/>")
        parts.append(f"<text class='tick' x='{px(x):.1f}' y='{base + 18}' text-anchor='middle'>{number(x)}</text>")
    middle = (LEFT + WIDTH_PX - RIGHT) / 2
    parts.append(f"<text class='axis' x='{middle}' y='{HEIGHT_PX - 4}' text-anchor='middle'>{escape(x_label)}</text>")
    parts.append(
        f"<text class='axis' x='14' y='{(TOP + base) / 2}' text-anchor='middle' "
        f"transform='rotate(-90 14 {(TOP + base) / 2})'>{escape(y_label)}</text>"
    )
    return "".join(parts)


def legend(names: Sequence[str]) -> str:
    """Colours and names of the lines; nothing for a single one."""
    if len(names) < 2:
        return ""
    keys = "".join(f"<span><i class='key c{i % 6}'></i>{escape(name)}</span>" for i, name in enumerate(names))
    return f"<p class='legend'>{keys}</p>"


def svg(body: str, width: int, height: int, label: str) -> str:
    """A drawing as wide as the page allows."""
    return (
        f"<div class='scroll'><svg viewBox='0 0 {width} {height}' role='img' aria-label='{escape(label, quote=True)}'>"
        f"{body}</svg></div>"
    )
