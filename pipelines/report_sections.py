"""The report's other parts: probe, training, demonstrations and the run itself. What left nothing is left out."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from blm.pipelines.charts import Line, line_chart
from blm.pipelines.report_page import Html, Section, counts, folded, note, percent, table
from blm.pipelines.show import duration, size
from blm.pipelines.workspace import read_json_if_there


def probe(intents: Path) -> Section | None:
    """How precisely a linear map reads object positions off the stored hidden states."""
    found = read_json_if_there(intents / "probe.json")
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


CURVES = (
    ("stage1", "Stage I: multimodal model", {"loss": "answers", "grounding": "grounding"}),
    ("stage2", "Stage II: flow matching", {"flow": "training", "val_flow": "held-out episodes"}),
    (
        "stage2",
        "Stage II: future prediction",
        {"future": "training", "val_future": "held-out episodes", "val_copy": "copying the present"},
    ),
    ("baseline", "Diffusion Policy: noise prediction", {"loss": "training", "val_loss": "held-out episodes"}),
)
"""(stage, title, {column of metrics.json: name}) of the charts."""


def training(folders: Mapping[str, Path]) -> Section | None:
    """Loss curves of the training stages."""
    parts = []
    for stage, title, columns in CURVES:
        metrics = read_json_if_there(folders[stage] / "metrics.json") if stage in folders else None
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
