"""Charts of shares, a row each: success rates with their intervals, and what episodes came to. See `charts`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from blm.pipelines.charts import svg

ROW_PX, LEFT_PX, RIGHT_PX, TOP_PX, WIDTH_PX = 34, 190, 24, 8, 680


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
    parts = _frame([rate.name for rate in rates])
    px = _px
    for i, rate in enumerate(rates):
        y = _middle(i)
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
    return svg("".join(parts), WIDTH_PX, _height(len(rates)), "success rates") + f"<p class='legend'>{keys}</p>"


SHADES = ("s0", "s1", "s2", "s3", "s4", "s5")
"""Classes of the parts of a row, from what is good to what is bad."""


def parts_chart(rows: Mapping[str, Mapping[str, float]], names: Sequence[str], label: str) -> str:
    """A bar a row, divided into shares that add up to 1. names: of all parts, in order; at most six."""
    drawn = _frame(list(rows))
    for i, shares in enumerate(rows.values()):
        left = 0.0
        for name, shade in zip(names, SHADES, strict=False):
            share = shares.get(name, 0.0)
            if share > 0:
                drawn.append(
                    f"<rect class='part {shade}' x='{_px(left):.1f}' y='{_middle(i) - 9:.1f}' height='18'"
                    f" width='{_px(left + share) - _px(left):.1f}'><title>{escape(name)}: {share:.0%}</title></rect>"
                )
            left += share
    keys = "".join(
        f"<span><i class='key part {shade}'></i>{escape(name)}</span>"
        for name, shade in zip(names, SHADES, strict=False)
        if any(shares.get(name) for shares in rows.values())
    )
    return svg("".join(drawn), WIDTH_PX, _height(len(rows)), label) + f"<p class='legend'>{keys}</p>"


def _frame(names: Sequence[str]) -> list[str]:
    """Grid lines of shares, and the names of the rows."""
    height = _height(len(names))
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = _px(share)
        parts.append(f"<line class='grid' x1='{x:.1f}' x2='{x:.1f}' y1='{TOP_PX}' y2='{height - 22}'/>")
        parts.append(f"<text class='tick' x='{x:.1f}' y='{height - 6}' text-anchor='middle'>{share:.0%}</text>")
    for i, name in enumerate(names):
        y = _middle(i) + 4
        parts.append(f"<text class='row' x='{LEFT_PX - 14}' y='{y:.1f}' text-anchor='end'>{escape(name)}</text>")
    return parts


def _px(share: float) -> float:
    return LEFT_PX + share * (WIDTH_PX - LEFT_PX - RIGHT_PX)


def _middle(row: int) -> float:
    return TOP_PX + ROW_PX * (row + 0.5)


def _height(rows: int) -> int:
    return TOP_PX + ROW_PX * rows + 26
