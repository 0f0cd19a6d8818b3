"""What `compare.json` says, in words. Light to import: the report does."""

from collections.abc import Mapping
from typing import Any

RESULT = "compare.json"


def verdict_line(result: Mapping[str, Any]) -> str:
    """The verdict as one sentence."""
    scenes = f"{result['pairs']} scenes"
    alpha = f"{100 * result['rules']['alpha']:g} %"
    if result["better"]:
        return f"{result['better']} is better: decided after {scenes}, at an error rate of {alpha}"
    if result["verdict"] == "equal":
        margin = f"{100 * result['rules']['margin']:g}"
        return f"no difference of {margin} points or more: shown after {scenes}, at an error rate of {alpha}"
    return f"undecided after {scenes}"


def text(result: Mapping[str, Any]) -> str:
    """What a comparison found, as lines for a terminal."""
    first, second = result["first"], result["second"]
    width = max(len(first["name"]), len(second["name"]), 8) + 2
    lines = ["", f"{first['name']} against {second['name']}, simulated by: {result['backend'] or 'not recorded'}", ""]
    lines.append(f"  {'':<{width}}{'success':>9}{'95 % interval':>18}{'episodes':>10}{'broken':>8}")
    for side in (first, second):
        interval = f"{side['low']:.0%} to {side['high']:.0%}"
        lines.append(
            f"  {side['name']:<{width}}{side['rate']:>9.1%}{interval:>18}{side['episodes']:>10}{side['errors']:>8}"
        )
    sure = f"{100 * (1 - result['rules']['alpha']):g} %"
    lines += [
        "",
        f"  difference {100 * result['difference']:+.1f} points ({sure} interval, whenever one stops:"
        f" {100 * result['difference_low']:+.1f} to {100 * result['difference_high']:+.1f})",
        f"  {result['pairs']} scenes: {result['both']} done by both, {result['only_first']} by {first['name']} alone,"
        f" {result['only_second']} by {second['name']} alone, {result['neither']} by neither",
        f"  McNemar's exact p = {result['p']:.2g}"
        + (" (of a number of scenes fixed beforehand; this one was not)" if result["stopped_early"] else ""),
        f"  {result['rounds']} of {result['rounds_planned']} scenes of each cell were needed",
        "",
        f"  {verdict_line(result)}",
        "",
    ]
    return "\n".join([*lines, *_cell_lines(result)])


def _cell_lines(result: Mapping[str, Any]) -> list[str]:
    """A line a cell, with p adjusted for their number."""
    if len(result["cells"]) < 2:
        return []
    lines = [f"  {'cell':<24}{'A':>7}{'B':>7}{'only A':>8}{'only B':>8}{'p':>10}{'p of all':>10}"]
    for row in result["cells"]:
        lines.append(
            f"  {row['cell']:<24}{row['rate_first']:>7.0%}{row['rate_second']:>7.0%}{row['only_first']:>8}"
            f"{row['only_second']:>8}{row['p']:>10.2g}{row['p_adjusted']:>10.2g}"
        )
    return [*lines, "  (p of all: adjusted by Holm's method for the number of cells)"]
