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
    kept = [
        Line(
            name=line.name,
            points=tuple(
                (x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y)
            ),
        )
        for line in lines
    ]
    kept = [line for line in kept if line.points]
    if not kept:
        return "<p class='quiet'>no data</p>"
    xs = [x for line in kept for x, _ in line.points]
    ys = [y for line in kept for _, y in line.points]
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
        parts.append(f"<polyline class='line c{i % 6}' points='{path}'><title>{escape(line.name)}</title></polyline>")
        parts.append(
            f"<circle class='dot c{i % 6}' cx='{px(last[0]):.1f}' cy='{py(last[1]):.1f}' r='3'>"
            f"<title>{escape(line.name)}: {last[1]:.4g} at {last[0]:g}</title></circle>"
        )
    return _svg("".join(parts), WIDTH_PX, HEIGHT_PX, f"{y_label} over {x_label}") + legend([line.name for line in kept])


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """One row of a success chart; shares from 0 to 1."""

    name: str
    rate: float
    low: float
    high: float
    baseline: float | None = None
    random: float | None = None
    paper: float | None = None


def rate_chart(rates: Sequence[Rate]) -> str:
    """Success rates with their intervals, one row each; the baseline, random actions and the paper's number as marks
    beside them."""
    row_px, left, right, top = 34, 190, 24, 8
    width, height = 680, top + row_px * len(rates) + 26

    def px(share: float) -> float:
        return left + share * (width - left - right)

    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f"<line class='grid' x1='{px(share):.1f}' x2='{px(share):.1f}' y1='{top}' y2='{height - 22}'/>")
        parts.append(f"<text class='tick' x='{px(share):.1f}' y='{height - 6}' text-anchor='middle'>{share:.0%}</text>")
    for i, rate in enumerate(rates):
        y = top + row_px * (i + 0.5)
        parts.append(f"<text class='row' x='{left - 14}' y='{y + 4:.1f}' text-anchor='end'>{escape(rate.name)}</text>")
        parts.append(f"<line class='interval c0' x1='{px(rate.low):.1f}' x2='{px(rate.high):.1f}' y1='{y}' y2='{y}'/>")
        if rate.paper is not None:
            x = px(rate.paper)
            parts.append(
                f"<path class='mark paper' d='M{x:.1f} {y - 9} l7 9 l-7 9 l-7 -9 z'>"
                f"<title>paper: {rate.paper:.0%}</title></path>"
            )
        parts.append(
            f"<circle class='dot c0' cx='{px(rate.rate):.1f}' cy='{y}' r='6'>"
            f"<title>{escape(rate.name)}: {rate.rate:.0%} ({rate.low:.0%} to {rate.high:.0%})</title></circle>"
        )
        if rate.baseline is not None:
            parts.append(
                f"<rect class='mark baseline' x='{px(rate.baseline) - 6:.1f}' y='{y - 6:.1f}' width='12' height='12'>"
                f"<title>Diffusion Policy: {rate.baseline:.0%}</title></rect>"
            )
        if rate.random is not None:
            x = px(rate.random)
            parts.append(
                f"<path class='mark random' d='M{x - 6:.1f} {y - 6} l12 12 m0 -12 l-12 12'>"
                f"<title>random: {rate.random:.0%}</title></path>"
            )
    marks = [("key dot c0", "this run, with 95 % interval")]
    marks += [("key baseline", "Diffusion Policy")] if any(rate.baseline is not None for rate in rates) else []
    marks += [("key random", "random actions")] if any(rate.random is not None for rate in rates) else []
    marks += [("key paper", "paper, 7B model, other data")] if any(rate.paper is not None for rate in rates) else []
    keys = "".join(f"<span><i class='{kind}'></i>{escape(text)}</span>" for kind, text in marks)
    return _svg("".join(parts), width, height, "success rates") + f"<p class='legend'>{keys}</p>"


def legend(names: Sequence[str]) -> str:
    """Colours and names of the lines; nothing for a single one."""
    if len(names) < 2:
        return ""
    keys = "".join(f"<span><i class='key c{i % 6}'></i>{escape(name)}</span>" for i, name in enumerate(names))
    return f"<p class='legend'>{keys}</p>"


def _svg(body: str, width: int, height: int, label: str) -> str:
    return (
        f"<div class='scroll'><svg viewBox='0 0 {width} {height}' role='img' aria-label='{escape(label, quote=True)}'>"
        f"{body}</svg></div>"
    )
