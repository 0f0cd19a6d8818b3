"""The parts of the report, each made from what one stage left behind; a part whose input is absent is left out."""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from blm.pipelines.charts import Line, Rate, line_chart, rate_chart
from blm.pipelines.paper_tables import DIGITAL, DIGITAL_BENCHMARKS, EPISODES_PER_CELL, PHYSICAL, TASKS, paper_rate
from blm.pipelines.report_page import Html, Section, folded, note, table
from blm.pipelines.show import duration, size

PAPER_NOTE = (
    "The paper's numbers (BLM1, arXiv 2510.24161) come from a 7B backbone, other demonstrations and "
    f"{EPISODES_PER_CELL} episodes a cell; they are a reference, not a comparison on equal terms."
)


def percent(share: float | None) -> object:
    """75 %, or nothing."""
    return None if share is None else Html(text=f"{100 * share:.0f}&thinsp;%", right=True)


def counts(reasons: Mapping[str, int]) -> str | None:
    """Reasons by how often they occurred."""
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in ordered) or None


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
        counts(c.get("failures", {})),
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


def error_of(c: Mapping[str, Any]) -> object:
    """Mean error of answers that are positions, with that of the best blind guess; nothing for other answers."""
    if c.get("error_cm") is None:
        return None
    guess = f" ({c['guess_error_cm']:.1f})" if c.get("guess_error_cm") is not None else ""
    return Html(text=f"{c['error_cm']:.1f}{guess} cm", right=True)


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
            error_of(c),
        ]
        for c in categories
    ]
    head = (
        "category",
        "questions",
        "before Stage I",
        "after Stage I",
        "commonest answer",
        "without the picture",
        "error (guess)",
    )
    paper = [
        [model, *scores.values(), round(sum(scores.values()) / len(scores), 2)] for model, scores in DIGITAL.items()
    ]
    return Section(
        title="Digital space",
        anchor="digital",
        body=table(head, rows)
        + note(
            "Questions about scenes of held-out seeds. An answer counts if it is right to the word; a position is "
            "three words. The commonest answer and the grey picture say what can be had without seeing."
        )
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
    rows = [
        [
            c["cell"],
            Html(text=f"<b>{c['object_cm']:.2f} cm</b>", right=True),
            f"{c['object_spread_cm']:.2f}",
            Html(text=f"<b>{c['goal_cm']:.2f} cm</b>", right=True),
            f"{c['goal_spread_cm']:.2f}",
            c["frames"],
        ]
        for c in found["cells"]
    ]
    head = ("cell", "object, error", "blind guess, cm", "goal, error", "blind guess, cm", "held-out frames")
    body = table(head, rows) + note(
        f"Mean distance between the true position and what a linear map reads off the hidden states of block "
        f"{found['layer']}, on episodes it was not fitted on. A policy cannot move what these states do not show."
    )
    return Section(title="What the hidden states know", anchor="probe", body=body)


# ---------------------------------------------------------------------------------------------------- training


CURVES = (
    ("stage1", "Stage I: multimodal model", {"loss": "answers", "grounding": "grounding"}),
    ("stage2", "Stage II: flow matching", {"flow": "training", "val_flow": "held-out episodes"}),
    (
        "stage2",
        "Stage II: future prediction",
        {"future": "training", "val_future": "held-out episodes", "val_copy": "copying the present"},
    ),
)
"""(stage, title, {column of metrics.json: name}) of the charts."""


def training(folders: Mapping[str, Path]) -> Section | None:
    """Loss curves of both training stages."""
    parts = []
    for stage, title, columns in CURVES:
        metrics = load(folders[stage] / "metrics.json") if stage in folders else None
        chart = _losses(metrics, columns) if metrics else ""
        if chart:
            parts.append(f"<div><h3>{escape(title)}</h3>{chart}</div>")
    return (
        Section(title="Training", anchor="training", body=f"<div class='two'>{''.join(parts)}</div>") if parts else None
    )


def _losses(metrics: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """A chart of the columns that the curves have; empty if they have none."""
    points = [*metrics.get("curve", ()), *metrics.get("validation", ())]
    lines = [
        Line(name=name, points=tuple((p["step"], p[column]) for p in points if p.get(column) is not None))
        for column, name in columns.items()
    ]
    lines = [line for line in lines if line.points]
    return line_chart(lines, x_label="step", y_label="loss", log_y=True) if lines else ""


# ----------------------------------------------------------------------------------------------------- collect


def demonstrations(summary: Mapping[str, Any]) -> Section | None:
    """What was collected, and why attempts failed."""
    cells = summary.get("cells")
    if not cells:
        return None
    rows = [
        [
            name,
            c["kept"],
            c["tried"],
            percent(c["first_plan_rate"]),
            percent(c["success_rate"]),
            c["median_steps"],
            counts(c["failures"]),
        ]
        for name, c in cells.items()
    ]
    head = ("cell", "kept", "seeds tried", "first plan", "after retries", "median steps", "failures")
    body = table(head, rows)
    if summary.get("episodes_per_core_minute"):
        rate = summary["episodes_per_core_minute"]
        body += note(f"{rate:.0f} episodes per core and minute, planning and physics; pictures are rendered later.")
    return Section(title="Demonstrations", anchor="collect", body=body)


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
        cell_name, seed, outcome = _video_name(path)
        data = base64.b64encode(path.read_bytes()).decode()
        mood = "good" if outcome == "success" else "bad"
        figures.append(
            f"<figure><video controls muted loop playsinline preload='metadata' "
            f"src='data:video/mp4;base64,{data}'></video>"
            f"<figcaption>{escape(cell_name)}, seed {escape(seed)}: "
            f"<span class='{mood}'>{escape(outcome)}</span></figcaption></figure>"
        )
    more = len(found) - len(chosen)
    rest_note = note(f"{more} more in the evaluation's folder.") if more else ""
    return Section(title="Rollouts", anchor="videos", body=f"<div class='videos'>{''.join(figures)}</div>{rest_note}")


def _video_name(path: Path) -> tuple[str, str, str]:
    """(cell, seed, outcome) of panda-PushCube-seed1000001-success.mp4."""
    cell_name, _, rest = path.stem.rpartition("-seed")
    seed, _, outcome = rest.partition("-")
    return cell_name.replace("-", "/", 1), seed, outcome


def _by_turns(found: Sequence[Path], per_cell: int) -> list[Path]:
    """Up to `per_cell` videos of each cell, a success and a failure by turns, first ones of all cells first."""
    cells: dict[str, dict[str, list[Path]]] = {}
    for path in found:
        cell_name, _, outcome = _video_name(path)
        cells.setdefault(cell_name, {}).setdefault(outcome, []).append(path)
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
