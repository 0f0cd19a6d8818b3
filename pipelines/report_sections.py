"""The parts of the report, each made from what one stage left behind; a part whose input is absent is left out."""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from blm.pipelines.charts import Line, Rate, line_chart, rate_chart
from blm.pipelines.paper_tables import DIGITAL, DIGITAL_BENCHMARKS, EPISODES_PER_CELL, PHYSICAL, TASKS, paper_rate
from blm.pipelines.report_page import Html, Section, facts, folded, note, table
from blm.pipelines.show import duration, size

PAPER_NOTE = (
    "The paper's numbers (BLM1, arXiv 2510.24161) come from a 7B backbone, other demonstrations and "
    f"{EPISODES_PER_CELL} episodes a cell; they are a reference, not a comparison on equal terms."
)


def percent(share: float | None) -> object:
    """75 %, or nothing."""
    return None if share is None else Html(text=f"{100 * share:.0f}&thinsp;%", right=True)


def load(path: Path) -> Any:
    """A JSON file, or None if it is not there."""
    return json.loads(path.read_text()) if path.is_file() else None


# ---------------------------------------------------------------------------------------------------- physical


def physical(evaluate: Path) -> Section | None:
    """Success of each cell on unseen seeds, with random actions and the paper beside it."""
    cells = (load(evaluate / "summary.json") or {}).get("cells", [])
    ours = [c for c in cells if c["policy"] != "random"]
    if not ours:
        return None
    random = {c["cell"]: c for c in cells if c["policy"] == "random"}
    rates = [
        Rate(
            name=c["cell"],
            rate=c["rate"],
            low=c["low"],
            high=c["high"],
            random=random[c["cell"]]["rate"] if c["cell"] in random else None,
            paper=paper_rate(*c["cell"].split("/")),
        )
        for c in ours
    ]
    rows = [_cell_row(c, random.get(c["cell"])) for c in ours]
    head = ("cell", "success", "95 % interval", "episodes", "random actions", "paper", "median steps", "failures")
    body = rate_chart(rates) + table(head, rows)
    if len(ours) > 2:
        body += "<h3>By robot and task</h3>" + _matrix(ours)
    body += note(
        "Seeds of these episodes were never collected from. Wilson intervals; an episode that broke counts as failed."
    )
    return Section(title="Physical space", anchor="physical", body=body + note(PAPER_NOTE) + _paper_physical())


def _cell_row(c: Mapping[str, Any], random: Mapping[str, Any] | None) -> list[object]:
    failures = ", ".join(
        f"{reason} {count}" for reason, count in sorted(c.get("failures", {}).items(), key=lambda f: -f[1])
    )
    interval = Html(text=f"{100 * c['low']:.0f} to {100 * c['high']:.0f}&thinsp;%", right=True)
    beside = (
        None
        if random is None
        else Html(text=f"{100 * random['rate']:.0f}&thinsp;% of {random['episodes']}", right=True)
    )
    return [
        c["cell"],
        Html(text=f"<b>{100 * c['rate']:.0f}&thinsp;%</b>", right=True),
        interval,
        f"{c['successes']} of {c['episodes']}",
        beside,
        percent(paper_rate(*c["cell"].split("/"))),
        c.get("median_steps"),
        failures or None,
    ]


def _matrix(cells: Sequence[Mapping[str, Any]]) -> str:
    """Robots by tasks, with averages."""
    by_name = {c["cell"]: c for c in cells}
    robots = list(dict.fromkeys(c["cell"].split("/")[0] for c in cells))
    names = list(dict.fromkeys(c["cell"].split("/")[1] for c in cells))
    rows = []
    for robot in robots:
        mine = [by_name.get(f"{robot}/{task}") for task in names]
        present = [c["rate"] for c in mine if c is not None]
        shown: list[object] = [
            None
            if c is None
            else Html(text=f"<b>{100 * c['rate']:.0f}</b><small>{100 * c['low']:.0f} to {100 * c['high']:.0f}</small>")
            for c in mine
        ]
        rows.append([robot, *shown, Html(text=f"<b>{100 * sum(present) / len(present):.1f}</b>")])
    return table(("robot", *names, "average, %"), rows)


def _paper_physical() -> str:
    """All published physical results, folded."""
    rows = [
        [model if i == 0 else "", robot, *rates.values(), round(sum(rates.values()) / len(rates), 1)]
        for model, robots in PHYSICAL.items()
        for i, (robot, rates) in enumerate(robots.items())
    ]
    return folded("All physical results of the paper, %", table(("model", "robot", *TASKS, "average"), rows))


# ----------------------------------------------------------------------------------------------------- digital


def digital(evaluate: Path) -> Section | None:
    """Held-out questions before and after Stage I, beside what needs no model and no picture."""
    categories = (load(evaluate / "digital.json") or {}).get("categories", [])
    if not categories:
        return None
    rows = [
        [
            c["category"],
            c["n"],
            percent(c.get("before")),
            Html(text=f"<b>{100 * c['after']:.0f}&thinsp;%</b>", right=True),
            percent(c.get("majority")),
            percent(c.get("no_picture")),
        ]
        for c in categories
    ]
    head = ("category", "questions", "before Stage I", "after Stage I", "commonest answer", "without the picture")
    paper = [
        [model, *scores.values(), round(sum(scores.values()) / len(scores), 2)] for model, scores in DIGITAL.items()
    ]
    return Section(
        title="Digital space",
        anchor="digital",
        body=table(head, rows)
        + note("Questions about scenes of held-out seeds. The last two columns: what answers without seeing score.")
        + folded(
            "Digital results of the paper (its own benchmarks), %",
            table(("model", *DIGITAL_BENCHMARKS, "average"), paper),
        ),
    )


# ------------------------------------------------------------------------------------------------------- probe


def probe(intents: Path) -> Section | None:
    """How precisely a linear map reads object positions off the stored hidden states."""
    found = load(intents / "probe.json")
    if not found:
        return None
    return Section(title="What the hidden states know", anchor="probe", body=describe(found))


def describe(value: Mapping[str, Any]) -> str:
    """Any JSON object as tables:

    plain values first, lists of objects as tables of their own, nested objects below a heading.
    """
    plain = [
        (k.replace("_", " "), _short(v)) for k, v in value.items() if not isinstance(v, Mapping) and not _records(v)
    ]
    body = facts(plain) if plain else ""
    for key, below in value.items():
        if isinstance(below, Mapping) and below:
            body += f"<h3>{escape(str(key).replace('_', ' '))}</h3>{describe(below)}"
        elif _records(below):
            columns = list(dict.fromkeys(k for record in below for k in record))
            rows = [[_short(record.get(column)) for column in columns] for record in below]
            body += f"<h3>{escape(key.replace('_', ' '))}</h3>{table([c.replace('_', ' ') for c in columns], rows)}"
    return body


def _records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _short(value: Any) -> object:
    if isinstance(value, list):
        return ", ".join(f"{item:.3g}" if isinstance(item, float) else str(item) for item in value[:20])
    return json.dumps(value) if isinstance(value, Mapping) else value


# ---------------------------------------------------------------------------------------------------- training


def training(stage1: Path | None, stage2: Path | None) -> Section | None:
    """Loss curves of both stages."""
    parts = []
    for title, folder in (("Stage I: multimodal model", stage1), ("Stage II: policy", stage2)):
        curve = (load(folder / "metrics.json") or {}).get("curve") if folder else None
        if curve:
            parts.append(f"<div><h3>{title}</h3>{_curve(curve)}</div>")
    return (
        Section(title="Training", anchor="training", body=f"<div class='two'>{''.join(parts)}</div>") if parts else None
    )


def _curve(curve: Sequence[Mapping[str, Any]]) -> str:
    """Every column of a curve whose name speaks of loss."""
    columns = [k for k in dict.fromkeys(k for point in curve for k in point) if "loss" in k]
    lines = [
        Line(
            name=column.replace("_", " "), points=tuple((p["step"], p[column]) for p in curve if _finite(p.get(column)))
        )
        for column in columns
    ]
    return line_chart(lines, x_label="step", y_label="loss", log_y=True)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# ----------------------------------------------------------------------------------------------------- collect


def demonstrations(collect: Path, manifest: Mapping[str, Any]) -> Section | None:
    """What was collected, and why episodes failed."""
    body = describe(manifest["summary"]) if manifest["summary"] else ""
    failures = load(collect / "failures.json")
    if failures:
        rows = [
            (cell, reason, count)
            for cell, reasons in failures.items()
            if isinstance(reasons, Mapping)
            for reason, count in sorted(reasons.items(), key=lambda r: -r[1])
        ]
        body += "<h3>Failures</h3>" + table(("cell", "reason", "episodes"), rows)
    return Section(title="Demonstrations", anchor="collect", body=body) if body else None


# ------------------------------------------------------------------------------------------------------ videos


def videos(evaluate: Path, *, per_cell: int, budget_mb: float) -> Section | None:
    """Rollouts inside the page, failures and successes by turns, as many as the budget allows."""
    found = sorted((evaluate / "videos").glob("*.mp4"))
    chosen: list[Path] = []
    left = budget_mb * 1e6
    for path in _by_turns(found, per_cell):
        if path.stat().st_size <= left:
            chosen.append(path)
            left -= path.stat().st_size
    if not chosen:
        return None
    figures = []
    for path in sorted(chosen):
        cell_name, _, rest = path.stem.partition("-seed-")
        seed, _, outcome = rest.partition("-")
        data = base64.b64encode(path.read_bytes()).decode()
        mood = "good" if outcome == "success" else "bad"
        figures.append(
            f"<figure><video controls muted loop playsinline preload='metadata' "
            f"src='data:video/mp4;base64,{data}'></video>"
            f"<figcaption>{escape(cell_name.replace('_', '/', 1))}, seed {escape(seed)}: "
            f"<span class='{mood}'>{escape(outcome)}</span></figcaption></figure>"
        )
    more = len(found) - len(chosen)
    rest_note = note(f"{more} more in the evaluation's folder.") if more else ""
    return Section(title="Rollouts", anchor="videos", body=f"<div class='videos'>{''.join(figures)}</div>{rest_note}")


def _by_turns(found: Sequence[Path], per_cell: int) -> list[Path]:
    """Up to `per_cell` videos of each cell, a success and a failure by turns, first ones of all cells first."""
    cells: dict[str, dict[str, list[Path]]] = {}
    for path in found:
        cell_name, _, rest = path.stem.partition("-seed-")
        cells.setdefault(cell_name, {}).setdefault(rest.rpartition("-")[2], []).append(path)
    ranked = []
    for outcomes in cells.values():
        lists = [list(outcomes[key]) for key in sorted(outcomes, reverse=True)]  # success before failure
        mixed: list[Path] = []
        while any(lists) and len(mixed) < per_cell:
            for paths in lists:
                if paths and len(mixed) < per_cell:
                    mixed.append(paths.pop(0))
        ranked += list(enumerate(mixed))
    return [path for _, path in sorted(ranked, key=lambda item: item[0])]


# ---------------------------------------------------------------------------------------------------- the run


def stages(manifests: Mapping[str, Mapping[str, Any]]) -> Section:
    """Wall time, memory and size of each stage, versions and configuration."""
    rows = [
        [
            name,
            duration(m["wall_s"]),
            f"{m.get('peak_memory_gb', 0):.1f} GB",
            size(sum(f["bytes"] for f in m["files"])),
            m["attempts"],
            m["finished"],
            Html(text=f"<code>{m['fingerprint'][:8]}</code>"),
        ]
        for name, m in manifests.items()
    ]
    total = duration(sum(m["wall_s"] for m in manifests.values()))
    rows.append([Html(text="<b>all</b>"), total, "", "", "", "", ""])
    head = ("stage", "wall time", "peak memory", "output", "attempts", "finished", "fingerprint")
    body = table(head, rows)
    config = {name: m["config"] for name, m in manifests.items()}
    first = next(iter(manifests.values()))
    versions = first.get("versions", {})
    body += folded("Versions", table(("package", "version"), list(versions.items())))
    text = json.dumps({"seed": first["seed"], "world": first["world"]} | config, indent=1)
    body += folded("Configuration", f"<pre>{escape(text)}</pre>")
    return Section(title="The run", anchor="run", body=body)
