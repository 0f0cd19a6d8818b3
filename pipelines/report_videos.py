"""The report's videos: rollouts inside the page."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from blm.pipelines.report_page import Section, note


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
