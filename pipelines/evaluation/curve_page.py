"""A latency curve for people: as lines of text, and as a page of charts."""

from collections.abc import Mapping
from typing import Any


def text(result: Mapping[str, Any]) -> str:
    """A line a latency, a column a mode."""
    modes = list(dict.fromkeys(point["mode"] for point in result["points"]))
    head = f"{'latency':>10}" + "".join(f"{mode:>26}" for mode in modes)
    lines = [f"success of {result['policy']} ({result['backend']}), 95 % intervals", head]
    for latency in dict.fromkeys(point["latency_ms"] for point in result["points"]):
        row = {point["mode"]: point for point in result["points"] if point["latency_ms"] == latency}
        lines.append(f"{latency:>7} ms" + "".join(f"{_success(row.get(mode)):>26}" for mode in modes))
    for point in result["points"]:
        against = point["against_plain"]
        if against is not None:
            lines.append(
                f"{point['mode']} against plain at {point['latency_ms']} ms: {against['only_first']} scenes done by it"
                f" alone, {against['only_second']} by plain alone, McNemar's exact p = {against['p']:.3g}"
            )
    return "\n".join(lines)


def _success(point: Mapping[str, Any] | None) -> str:
    return "-" if point is None else f"{point['rate']:.1%} ({point['low']:.0%} to {point['high']:.0%})"


def chart(result: Mapping[str, Any], key: str, label: str) -> str:
    """A curve a mode of one number of the points against latency, as HTML. Success comes with its intervals."""
    from blm.pipelines.charts import Line, line_chart

    lines = []
    for mode in dict.fromkeys(point["mode"] for point in result["points"]):
        mine = [point for point in result["points"] if point["mode"] == mode and point.get(key) is not None]
        points = tuple((float(point["latency_ms"]), float(point[key])) for point in mine)
        band = tuple((point["low"], point["high"]) for point in mine) if key == "rate" else ()
        lines.append(Line(name=mode.replace("_", " "), points=points, band=band))
    return line_chart(lines, x_label="latency, ms", y_label=label)


def html(result: Mapping[str, Any]) -> str:
    """A page of charts: success, and how smoothly the arm moves, against latency."""
    from blm.pipelines.report_page import Section, cell, note, page

    scenes = f"{result['seeds']} scenes in each of {len(result['cells'])} cells, simulated by: {result['backend']}"
    jerk = chart(result, "median_jerk_rad_s3", "jerk of the joints, rad/s³")
    sections = [
        Section(title="Success", anchor="success", body=chart(result, "rate", "success") + note(scenes)),
        Section(title="Smoothness", anchor="jerk", body=jerk),
    ]
    return page(f"{result['policy']} under latency", f"<p>{cell(', '.join(result['cells']))}</p>", sections)
