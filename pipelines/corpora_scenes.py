"""The part of `corpora` that composes scenes and plans what is asked about them.

Scenes are rendered to parts, a file each (a killed stage goes on with those that are left); then one look at all
answers decides which questions are asked, so that none can be answered by habit.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from blm.actors.sim.episode import episode_files
from blm.actors.sim.world import seed_range
from blm.model.errors import UserError
from blm.pipelines.datasets.balance import choose_test_questions, choose_training_questions
from blm.pipelines.datasets.items import map_items
from blm.pipelines.datasets.parquet import open_parquet
from blm.pipelines.datasets.questions import answers
from blm.pipelines.datasets.scenes import SceneWorker, facts_of
from blm.pipelines.workspace import StageContext

SPLITS = ("train", "test")
FILES = 12
"""Files of demonstrations that one piece of work draws from, where there are so many."""


class SceneOptions(Protocol):
    """What this part reads of the stage's options; the workers get all of them."""

    @property
    def scenes(self) -> int:
        """Training scenes over all cells."""

    @property
    def test_scenes(self) -> int:
        """Test scenes over all cells."""

    @property
    def scenes_per_file(self) -> int:
        """Scenes of a piece of work."""

    @property
    def turns(self) -> int:
        """Questions in a training conversation."""

    @property
    def test_questions(self) -> int:
        """Questions about a test scene."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the corpus shows so far."""

    digests: set[str] = field(default_factory=set)
    """Hashes of pictures."""
    arrangements: dict[str, set[tuple[str, int]]] = field(default_factory=lambda: {split: set() for split in SPLITS})
    """Tasks with their seeds, by split."""


def scene_items(config: SceneOptions, context: StageContext, parts: Path) -> list[dict[str, Any]]:
    """Pieces of work: up to `scenes_per_file` scenes of one cell and split, and the demonstrations to draw from."""
    cells = context.world.parsed_cells()
    items = []
    for split, total in zip(SPLITS, (config.scenes, config.test_scenes), strict=True):
        seeds = seed_range(f"corpora_{split}")
        if total > len(seeds):
            raise UserError(f"corpora asks for {total} {split} scenes; there are {len(seeds)} seeds for them")
        for k, cell in enumerate(cells):
            n = total // len(cells) + (k < total % len(cells))
            sources = demonstration_files(context, cell.slug)
            for i, first in enumerate(range(0, n, config.scenes_per_file)):
                items.append(
                    {
                        "split": split,
                        "cell": cell.name,
                        "cell_index": k,
                        "first": first,
                        "count": min(config.scenes_per_file, n - first),
                        "sources": [str(sources[(i + j) % len(sources)]) for j in range(min(FILES, len(sources)))],
                        "part": str(parts / f"{split}-{cell.slug}-{i:04d}.parquet"),
                    }
                )
    return items


def demonstration_files(context: StageContext, slug: str) -> list[Path]:
    """The kept demonstrations of a cell, none if the stage runs without them. UserError if a file is damaged."""
    if "collect" not in context.inputs:
        return []
    files = episode_files(context.inputs["collect"], slug)
    for path in files:
        open_parquet(path).close()
    return files


def render_scenes(config: SceneOptions, context: StageContext, items: list[dict[str, Any]]) -> None:
    """Render all parts that are not there yet."""
    waiting = [item for item in items if not Path(item["part"]).exists()]
    if len(waiting) < len(items):
        context.progress(f"{len(items) - len(waiting)} of {len(items)} parts were rendered before")
    started_s = time.perf_counter()
    n_scenes = 0
    arguments = {"config": config, "world": context.world, "seed": context.seed}
    results = map_items(
        waiting,
        SceneWorker,
        arguments=arguments,
        workers=context.resources.simulators,
        reads=("sources",),
        writes=("part",),
    )
    for done, result in enumerate(results, start=1):
        n_scenes += result["scenes"]
        if done == len(waiting) or done % max(1, len(waiting) // 6) == 0:
            rate = n_scenes / (time.perf_counter() - started_s)
            context.progress(f"{done}/{len(waiting)} parts, {n_scenes} scenes, {rate:.0f} scenes/s")


def plan_conversations(
    config: SceneOptions, context: StageContext, parts: dict[str, list[Path]], shown: Shown
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Which questions are asked about which scene, as pieces of work; and how many scenes are kept a split.

    A scene whose pictures came up before is left out.
    """
    plans: list[dict[str, Any]] = []
    kept: dict[str, int] = {}
    tasks = {cell.task for cell in context.world.parsed_cells()}
    for split in reversed(SPLITS):  # test first: of two equal pictures the test keeps its own
        scenes = []
        for fact in facts_of(parts[split]):
            scenes.append({} if fact.digest in shown.digests else answers(fact.scene, tasks))
            shown.digests.add(fact.digest)
            shown.arrangements[split].add((fact.scene.task, fact.seed))
        kept[split] = sum(map(bool, scenes))
        if split == "train":
            chosen = choose_training_questions(scenes, config.turns, context.seed)
        else:
            chosen = choose_test_questions(scenes, config.test_questions, context.seed)
        plans += _plans_by_part(parts[split], context.out / split, split, chosen)
    return plans, kept


def _plans_by_part(
    parts: Sequence[Path], folder: Path, split: str, chosen: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """One piece of work for `ConversationWriter` a part, with the categories of each of its scenes."""
    plans = []
    first = 0
    for part in parts:
        with open_parquet(part) as file:
            n = file.metadata.num_rows
        out = folder / f"simulator-{part.name.removeprefix(f'{split}-')}"
        questions = [" ".join(categories) for categories in chosen[first : first + n]]
        plans.append({"part": str(part), "out": str(out), "split": split, "questions": questions})
        first += n
    return plans
