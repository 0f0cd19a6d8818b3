"""Candidates: averaged weights in the midst of training, as checkpoints that can act, and which of them is the best.

    train/<model>/candidates/step-000500/    a deployable checkpoint
    rollouts.jsonl                           one line an episode: model, step, cell, scene seed, outcome

A training worker writes a candidate every `stage2.rollouts_every` steps and one at the end; `judge.py` rolls them out.
The one with the highest share of successes becomes the model; of several, the latest. Those that were judged and are
not the best so far are deleted.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines.statistics import wilson
from blm.pipelines.workspace import read_json

CANDIDATES = "candidates"
"""The folder of a model's training in which they lie."""
CONTRACT = "blm.json"
Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which candidate became the model."""

    step: int
    """Steps it was trained for."""
    why: str
    """In words."""
    success: float | None = None
    """Its share of successes in validation rollouts; None if there were none."""
    low: float | None = None
    """Lower end of Wilson's 95 % interval."""
    high: float | None = None
    """Upper end."""
    episodes: int = 0
    """Rollouts behind it."""


def candidate(folder: Path, step: int) -> Path:
    """Where the candidate of a step lies, below the `candidates` folder of a model."""
    return folder / f"step-{step:06d}"


def candidates(folder: Path) -> dict[int, Path]:
    """The whole candidates in a folder, by step."""
    found = {int(path.name.removeprefix("step-")): path for path in folder.glob("step-*") if path.is_dir()}
    return dict(sorted(item for item in found.items() if (item[1] / CONTRACT).is_file()))


def success_by_step(records: Iterable[Record]) -> dict[int, tuple[int, int]]:
    """step -> (successes, episodes) of one model's validation rollouts, in order of steps."""
    counts: dict[int, tuple[int, int]] = {}
    for record in records:
        successes, episodes = counts.get(record["step"], (0, 0))
        counts[record["step"]] = (successes + bool(record["success"]), episodes + 1)
    return dict(sorted(counts.items()))


def choose(records: Sequence[Record], last_step: int) -> Choice:
    """The best candidate by its rollouts: the highest share of successes, of several the latest. Without rollouts, the
    last. Every candidate was rolled out on the same scenes.
    """
    counts = success_by_step(records)
    if not counts:
        return Choice(step=last_step, why="the last: there were no validation rollouts")
    best = max(counts, key=lambda step: (counts[step][0] / counts[step][1], step))
    successes, episodes = counts[best]
    low, high = wilson(successes, episodes)
    others = "" if len(counts) == 1 else f" of {len(counts)} candidates"
    return Choice(
        step=best,
        why=f"most successes{others} in validation rollouts: {successes} of {episodes}",
        success=successes / episodes,
        low=low,
        high=high,
        episodes=episodes,
    )


def prune(folder: Path, records: Sequence[Record], finished: Iterable[int]) -> None:
    """Delete the candidates that were judged, but for the best of them. finished: steps whose rollouts are all done."""
    done = set(finished)
    judged = [record for record in records if record["step"] in done]
    if not judged:
        return
    best = choose(judged, 0).step
    for step, path in candidates(folder).items():
        if step in done and step != best:
            depot.drop(path)


def export(folder: Path, step: int, model: Path) -> None:
    """Make the candidate of `step` the checkpoint `model`; repeated after a kill, it does nothing. UserError if there
    is neither.
    """
    if (model / CONTRACT).is_file() and read_json(model / CONTRACT)["provenance"].get("step") == step:
        return
    source = depot.here(candidate(folder, step))
    if not (source / CONTRACT).is_file():
        raise UserError(f"{source} is missing; delete {folder.parent} and run the stage again")
    shutil.rmtree(model, ignore_errors=True)
    model.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, model)
    depot.keep(model)
