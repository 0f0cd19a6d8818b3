"""The page of an inspection: findings, distributions, and a few episodes of every cell to look at.

One file with charts and videos inside it, so that it can be mailed or archived.
"""

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path

from blm.model.errors import UserError
from blm.pipelines.charts import Line, line_chart
from blm.pipelines.inspection.cells import COLUMNS, shown
from blm.pipelines.inspection.charts import Span, span_chart, start_charts
from blm.pipelines.inspection.clips import DRAWN_CAMERAS, DRAWN_PX, choose, clip
from blm.pipelines.inspection.drawing import Drawer
from blm.pipelines.inspection.facts import Facts
from blm.pipelines.inspection.findings import CHECKS, Finding
from blm.pipelines.inspection.run import Inspection
from blm.pipelines.report_page import Html, Section, folded, note, page, table
from blm.pipelines.show import size

MOST_CELLS = 60
"""Cells of which the page shows lengths and videos; datasets of others may have a task an episode."""
MOODS = {"ok": "good", "warning": "warn", "error": "bad"}
STYLE = (
    "<style>.warn{color:var(--c4)}.narrow{max-width:520px}"
    ".wide{display:grid;grid-template-columns:repeat(auto-fill,minmax(280px,1fr));gap:16px}</style>"
)


def write_gallery(
    path: Path, inspections: Sequence[Inspection], *, videos_per_cell: int = 3, say: Callable[[str], None] | None = None
) -> None:
    """Write the page, whole or not at all. UserError if it cannot be written there."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder; give --html a file in one that exists")
    sections = []
    for number, one in enumerate(inspections):
        prefix = f"{one.about.path.name}: " if len(inspections) > 1 else ""
        sections += list(_sections(one, f"s{number}", prefix, videos_per_cell, say))
    where = (
        inspections[0].about.path
        if len(inspections) == 1
        else Path(os.path.commonpath([i.about.path for i in inspections]))
    )
    text = page(f"Inspection of {where.name}", STYLE + _lead(inspections), sections)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _lead(inspections: Sequence[Inspection]) -> str:
    kinds = {
        kind: sum(f.severity == kind for one in inspections for f in one.findings) for kind in ("error", "warning")
    }
    tiles = [
        (f"{sum(len(one.facts) for one in inspections):,}", "episodes"),
        (f"{sum(f.length for one in inspections for f in one.facts):,}", "frames"),
        (f"{len({row.cell for one in inspections for row in one.cells})}", "cells"),
        (f"<span class='bad'>{kinds['error']}</span>" if kinds["error"] else "0", "kinds of errors"),
        (f"<span class='warn'>{kinds['warning']}</span>" if kinds["warning"] else "0", "kinds of warnings"),
    ]
    paths = "".join(f"<p class='lead'>{escape(_told(one))}</p>" for one in inspections)
    return (
        paths
        + "<div class='tiles'>"
        + "".join(f"<div class='tile'><b>{v}</b><span>{t}</span></div>" for v, t in tiles)
        + "</div>"
    )


def _told(one: Inspection) -> str:
    about = one.about
    rate = f", {about.fps:g} frames/s" if about.fps else ""
    cameras = f", cameras {', '.join(about.cameras)}" if about.cameras else ""
    return f"{about.path}: {about.kind}{rate}{cameras}, {size(about.size_bytes)}"


def _sections(
    one: Inspection, anchor: str, prefix: str, videos_per_cell: int, say: Callable[[str], None] | None
) -> Iterator[Section]:
    rows = [
        [_severity(f), Html(text=f"<span title='{escape(CHECKS[f.check], quote=True)}'>{f.check}</span>"), f.text()]
        for f in one.findings
    ]
    about = folded("What the checks make sure of", table(("check", "makes sure that"), list(CHECKS.items())))
    yield Section(title=f"{prefix}checks", anchor=f"{anchor}-checks", body=table(("", "check", "found"), rows) + about)
    if one.cells:
        yield Section(title=f"{prefix}cells", anchor=f"{anchor}-cells", body=_cells(one))
    if videos_per_cell and one.facts and one.source is not None:
        yield Section(title=f"{prefix}episodes", anchor=f"{anchor}-episodes", body=_episodes(one, videos_per_cell, say))


def _severity(finding: Finding) -> Html:
    return Html(text=f"<b class='{MOODS[finding.severity]}' style='font-size:.92rem'>{finding.severity}</b>")


def _cells(one: Inspection) -> str:
    texts = [shown(row) for row in one.cells]
    columns = {name: head for name, head in COLUMNS.items() if any(text[name] for text in texts)}
    rows = [
        [row.cell, *(Html(text=escape(text[name]), right=True) for name in columns)]
        for row, text in zip(one.cells, texts, strict=True)
    ]
    body = table(("cell", *columns.values()), rows)
    body += note(
        "Lengths in frames. ± is the root mean square distance of first positions from their mean on the table; jerk is"
        " the median over episodes of its root mean square over joints."
    )
    spans = [
        Span(name=r.cell, low=r.shortest, middle=r.median, high=r.longest, note=f"{r.shortest} to {r.longest} frames")
        for r in one.cells[:MOST_CELLS]
    ]
    body += "<h3>Lengths of episodes</h3>" + span_chart(
        spans, label="frames, from shortest to longest; dot: median", low=0
    )
    starts = start_charts(
        {
            cell: [f for f in one.facts if f.cell == cell]
            for cell in dict.fromkeys(r.cell for r in one.cells[:MOST_CELLS])
        }
    )
    body += f"<h3>Where objects and goals start</h3>{starts}" if starts else ""
    used = [
        Span(
            name=joint.name if joint.name.startswith(joint.robot) else f"{joint.robot} {joint.name}",
            low=joint.share(joint.low),
            middle=joint.share((joint.low + joint.high) / 2),
            high=joint.share(joint.high),
            note=f"{joint.low:.3g} to {joint.high:.3g} of {joint.lower:.3g} to {joint.upper:.3g} rad",
        )
        for joint in one.joints
    ]
    if used:
        body += "<h3>Share of the joints' ranges that is used</h3>"
        body += span_chart(used, label="from lower to upper limit", low=0.0, high=1.0)
    if one.lags:
        lines = [Line(name=lag.group, points=lag.curve) for lag in one.lags]
        told = "; ".join(f"{lag.group} {1000 * lag.seconds:.0f} ms ({lag.frames:.1f} frames)" for lag in one.lags)
        chart = line_chart(lines, x_label="seconds after the action", y_label="correlation of changes")
        body += f"<h3>How states follow actions</h3><div class='narrow'>{chart}</div>"
        body += note(f"The top of a curve is the lag: {told}.")
    return body


def _episodes(one: Inspection, per_cell: int, say: Callable[[str], None] | None) -> str:
    """Videos by cell. What cannot be shown is said instead."""
    named = {facts.label: _checks_naming(facts, one.findings) for facts in one.facts}
    flagged = {label for label, checks in named.items() if checks}
    drawer = Drawer(DRAWN_CAMERAS, DRAWN_PX)
    shown_cells = one.cells[:MOST_CELLS]
    parts = []
    try:
        for row in shown_cells:
            if say is not None:
                say(f"videos of {row.cell}")
            chosen = choose([f for f in one.facts if f.cell == row.cell], per_cell, flagged)
            figures = "".join(_figure(one, facts, named[facts.label], drawer) for facts in chosen)
            parts.append(f"<h3>{escape(row.cell)}</h3><div class='wide'>{figures}</div>")
    finally:
        drawer.close()
    more = len(one.cells) - len(shown_cells)
    return "".join(parts) + (note(f"{more} more cells.") if more else "")


def _checks_naming(facts: Facts, findings: Sequence[Finding]) -> list[str]:
    """Checks among whose faults' places is this episode, at the beginning or at the end."""
    return list(
        dict.fromkeys(
            finding.check
            for finding in findings
            for place in finding.places
            if f"{place} ".startswith(f"{facts.label} ") or place.endswith(f"= {facts.label}")
        )
    )


def _figure(one: Inspection, facts: Facts, checks: Sequence[str], drawer: Drawer) -> str:
    """One episode's video with what is known of it. checks: those that found fault with it."""
    assert one.source is not None
    try:
        made = clip(one.source, facts, drawer)
    except UserError as error:
        return note(f"{facts.label}: {error}")
    if made is None:
        return note(f"{facts.label} has no pictures")
    seed = f", seed {facts.extra['seed']}" if "seed" in facts.extra and "seed" not in facts.label else ""
    seed += f", look {facts.extra['variant']}" if facts.extra.get("variant") else ""
    mark = f"<b class='bad'>{escape(', '.join(checks))}</b> · " if checks else ""
    outcome = " · <span class='bad'>no success</span>" if facts.extra.get("success") is False else ""
    return (
        f"<figure><video controls muted loop playsinline preload='metadata' onmouseenter='this.play()' "
        f"poster='data:image/jpeg;base64,{base64.b64encode(made.poster).decode()}' "
        f"style='aspect-ratio:{made.width_px}/{made.height_px}' "
        f"src='data:video/mp4;base64,{base64.b64encode(made.mp4).decode()}'></video>"
        f"<figcaption>{mark}{escape(facts.label)}{seed} · {facts.length} frames, {facts.seconds:.1f} s{outcome}<br>"
        f"<i>{escape(facts.task)}</i></figcaption></figure>"
    )
