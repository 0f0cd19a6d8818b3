"""Stage `report`: the results of a run on one self-contained HTML page.

Tables, intervals, curves and videos are inside the page; nothing is fetched when it is opened, so it can be mailed or
archived. Parts whose inputs are absent are left out.

    blm report --preset tiny
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.pipelines import report_sections as sections
from blm.pipelines.evaluation.contestants import OURS
from blm.pipelines.report_comparisons import comparisons, curves
from blm.pipelines.report_digital import digital
from blm.pipelines.report_page import page
from blm.pipelines.report_physical import physical
from blm.pipelines.report_videos import videos
from blm.pipelines.show import duration
from blm.pipelines.workspace import StageContext, read_json_if_there, read_manifest, write_text

VERSION = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """What goes on the page."""

    title: str = "Boundless Large Model: results of a run"
    """Heading of the page."""
    videos_per_cell: int = 6
    """Rollouts of each cell to show, successes and failures by turns."""
    video_budget_mb: float = 8.0
    """Size of all videos together, before they are encoded into the page."""

    def __post_init__(self) -> None:
        if self.videos_per_cell < 0 or self.video_budget_mb < 0:
            raise UserError("videos_per_cell and video_budget_mb must be 0 or more")


def report(config: ReportConfig, context: StageContext) -> dict[str, Any]:
    """Write `report.html` from the folders of the other stages."""
    folders = dict(context.inputs)
    manifests = {name: manifest for name, folder in folders.items() if (manifest := read_manifest(folder)) is not None}
    evaluate = folders.get("evaluate", Path("absent"))
    parts = [
        physical(evaluate),
        comparisons(context.out.parent),
        curves(context.out.parent),
        videos(evaluate, per_cell=config.videos_per_cell, budget_mb=config.video_budget_mb),
        digital(evaluate),
        sections.probe(folders.get("intents", Path("absent"))),
        sections.training(folders),
        sections.demonstrations(manifests["collect"]["summary"]) if "collect" in manifests else None,
        sections.stages(manifests) if manifests else None,
    ]
    text = page(config.title, lead(context, manifests, evaluate), [part for part in parts if part is not None])
    path = context.out / "report.html"
    write_text(path, text)
    context.tracker.log_artifact(path)
    return {
        "page": path.name,
        "sections": sum(part is not None for part in parts),
        "megabytes": round(len(text) / 1e6, 2),
    }


def rollout_tiles(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Headline numbers of rollouts, (number, of what): a few cells one by one; many as a whole, and the hardest."""
    if len(cells) <= 4:
        return [(f"{c['rate']:.0%}", f"{c['cell']} on {c['episodes']} unseen seeds") for c in cells]
    episodes, hardest = sum(c["episodes"] for c in cells), min(cells, key=lambda c: c["rate"])
    return [
        (f"{sum(c['successes'] for c in cells) / episodes:.1%}", f"of {episodes:,} rollouts of {len(cells)} cells"),
        (f"{hardest['rate']:.0%}", f"{hardest['cell']}, the hardest cell"),
    ]


def lead(context: StageContext, manifests: Mapping[str, Mapping[str, Any]], evaluate: Path) -> str:
    """What, on which machine, and the run's headline numbers as tiles."""
    machine: dict[str, Any] = next((m["machine"] for m in manifests.values() if "machine" in m), {})
    world = context.world
    facts = [
        f"run <b>{escape(context.out.parent.name)}</b>",
        f"seed {context.seed}",
        f"{len(world.cells)} cell{'s' if len(world.cells) != 1 else ''}",
        f"camera{'s' if len(world.cameras) != 1 else ''} {escape(', '.join(world.cameras))} at {world.image_px} px",
        f"{escape(world.geometry)} robot geometry",
    ]
    if machine:
        gpu = f", {escape(machine['gpu'])}" if machine.get("gpu") else ", no GPU"
        facts.append(f"{escape(machine['cpu'])}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB{gpu}")
    tiles = rollout_tiles(_own_cells(evaluate))
    answers = (read_json_if_there(evaluate / "digital.json") or {}).get("categories", [])
    asked = sum(c["n"] for c in answers)
    if asked:
        tiles.append((f"{sum(c['after'] * c['n'] for c in answers) / asked:.0%}", f"of {asked} held-out questions"))
    if manifests:
        tiles.append((duration(sum(m["wall_s"] for m in manifests.values())), "for all stages"))
        peak = max(m.get("peak_memory_gb", 0.0) for m in manifests.values())
        tiles.append((f"{peak:.1f} GB", "peak memory"))
    shown = "".join(
        f"<div class='tile'><b>{escape(value)}</b><span>{escape(text)}</span></div>" for value, text in tiles
    )
    return f"<p class='lead'>{' · '.join(facts)}</p><div class='tiles'>{shown}</div>"


def _own_cells(evaluate: Path) -> list[dict[str, Any]]:
    """The trained policy's cells of an evaluation."""
    cells = (read_json_if_there(evaluate / "summary.json") or {}).get("cells", [])
    return [c for c in cells if c["policy"] == OURS]
