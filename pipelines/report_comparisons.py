"""The report's comparisons and latency curves: what `blm evaluate compare` and `curve` left in the run."""

import math
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from blm.pipelines.charts import Line, line_chart
from blm.pipelines.evaluation import curve_page
from blm.pipelines.evaluation.verdicts import RESULT, verdict_line
from blm.pipelines.report_page import Html, Section, folded, note, table
from blm.pipelines.workspace import read_json


def comparisons(run: Path) -> Section | None:
    """Who is better, of every `compare.json` below `compare/` of the run."""
    bodies = [_comparison(result) for result in _results(run / "compare", RESULT)]
    return Section(title="Comparisons", anchor="compare", body="".join(bodies)) if bodies else None


def curves(run: Path) -> Section | None:
    """Success against the latency of inference, of every `curve.json` below `curve/` of the run."""
    bodies = [_curve(result) for result in _results(run / "curve", "curve.json")]
    return Section(title="Latency", anchor="latency", body="".join(bodies)) if bodies else None


def _results(folder: Path, name: str) -> Iterable[Mapping[str, Any]]:
    for path in sorted(folder.rglob(name)):
        yield read_json(path)


def _comparison(result: Mapping[str, Any]) -> str:
    sides = [result["first"], result["second"]]
    rows = [
        [
            side["name"],
            Html(text=f"<b>{100 * side['rate']:.1f}&thinsp;%</b>", right=True),
            Html(text=f"{100 * side['low']:.0f} to {100 * side['high']:.0f}&thinsp;%", right=True),
            side["episodes"],
            alone,
            side["errors"],
        ]
        for side, alone in zip(sides, (result["only_first"], result["only_second"]), strict=True)
    ]
    sure = f"{100 * (1 - result['rules']['alpha']):g}"
    body = f"<h3>{escape(sides[0]['name'])} against {escape(sides[1]['name'])}</h3>"
    body += f"<p><b>{escape(verdict_line(result))}.</b></p>"
    body += table(("policy", "success", "95 % interval", "scenes", "done by it alone", "broken"), rows)
    body += note(
        f"Difference {100 * result['difference']:+.1f} points, {100 * result['difference_low']:+.1f} to"
        f" {100 * result['difference_high']:+.1f} ({sure} % interval that holds whenever one stops)."
        f" {result['rounds']} of {result['rounds_planned']} scenes of each cell were needed. Simulation and robot"
        f" geometry: {result['backend'] or 'not recorded'}."
    )
    return body + _evidence(result) + _cells(result)


def _evidence(result: Mapping[str, Any]) -> str:
    """The evidence as it grew, and what it takes to decide; nothing for a single look."""
    path = result["path"]
    share = result["rules"]["alpha"] * result["rules"]["on_the_way"]
    if len(path) < 2 or not share:
        return ""
    needed = -math.log10(share)
    grown = tuple((float(pairs), evidence / math.log(10)) for pairs, _, _, evidence in path)
    ends = (grown[0][0], grown[-1][0])
    return line_chart(
        [Line(name="evidence", points=grown), Line(name="decides", points=tuple((x, needed) for x in ends))],
        x_label="scenes",
        y_label="evidence, powers of ten",
    )


def _cells(result: Mapping[str, Any]) -> str:
    rows = [
        [
            row["cell"],
            Html(text=f"{100 * row['rate_first']:.0f}", right=True),
            Html(text=f"{100 * row['rate_second']:.0f}", right=True),
            row["only_first"],
            row["only_second"],
            f"{row['p']:.2g}",
            f"{row['p_adjusted']:.2g}",
        ]
        for row in result["cells"]
    ]
    names = (result["first"]["name"], result["second"]["name"])
    head = ("cell", *(f"{name}, %" for name in names), "first alone", "second alone", "p", "p, of all cells")
    return folded("By cell (McNemar's exact p; the last column adjusted by Holm's method)", table(head, rows))


def _curve(result: Mapping[str, Any]) -> str:
    charts = [
        f"<div><h3>{title}</h3>{curve_page.chart(result, key, label)}</div>"
        for key, title, label in (
            ("rate", "Success", "success"),
            ("median_jerk_rad_s3", "Smoothness", "jerk of the joints, rad/s\u00b3"),
        )
    ]
    return f"<h3>{escape(result['policy'])}</h3><div class='two'>{''.join(charts)}</div>" + note(
        f"{result['seeds']} scenes in each of {len(result['cells'])} cells, under simulated latency; simulation and"
        f" robot geometry: {result['backend']}."
    )
