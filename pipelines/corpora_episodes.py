"""The part of `corpora` that asks about demonstrations: which clips are drawn, and what is asked.

Training and test questions come from different demonstrations: those whose seed ends in 9 are for testing, in every
cell, and for scenes and clips alike. Since a seed stands for one arrangement of a task's things whatever the robot, no
arrangement is in both. Policies are evaluated on seeds of a range of their own, which no demonstration has.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from blm.actors.sim.world import parse_cell
from blm.pipelines.datasets.episode_balance import Sketch, Sketcher, choose_questions
from blm.pipelines.datasets.episode_parts import EpisodeWorker
from blm.pipelines.datasets.episode_questions import asks
from blm.pipelines.datasets.episode_rows import SOURCE, EpisodeWriter
from blm.pipelines.datasets.episode_views import View
from blm.pipelines.datasets.items import map_items
from blm.pipelines.datasets.parquet import open_parquet, read_table
from blm.pipelines.workspace import StageContext

SceneKey = tuple[str, int]
"""A task and a seed: one arrangement of its things."""


class EpisodeOptions(Protocol):
    """What this part reads of the stage's options; the workers get all of them."""

    @property
    def episode_questions(self) -> int:
        """Clips of each demonstration."""

    @property
    def video_frames(self) -> int:
        """Pictures of a video."""


def draw_clips(
    config: EpisodeOptions, context: StageContext, sources: Mapping[str, Sequence[Path]]
) -> list[dict[str, str]]:
    """Draw all clips that are not drawn yet. sources: cell -> its files of demonstrations. Returns the pieces of work,
    each with its `part`.
    """
    items = clip_items(context, sources)
    waiting = [item for item in items if not Path(item["part"]).exists()]
    arguments = {"config": config, "world": context.world, "seed": context.seed}
    results = map_items(
        waiting,
        EpisodeWorker,
        arguments=arguments,
        workers=context.resources.simulators,
        reads=("source",),
        writes=("part",),
    )
    n_clips = 0
    for done, result in enumerate(results, start=1):
        n_clips += result["clips"]
        if done == len(waiting) or done % max(1, len(waiting) // 6) == 0:
            context.progress(f"episodes: {done}/{len(waiting)} parts, {n_clips} clips")
    return items


def clip_items(context: StageContext, sources: Mapping[str, Sequence[Path]]) -> list[dict[str, str]]:
    """Pieces of work: a file's demonstrations of one split."""
    parts = context.out / "parts"
    return [
        {
            "split": split,
            "source": str(source),
            "part": str(parts / f"{SOURCE}-{split}-{parse_cell(cell).slug}-{source.stem}.parquet"),
        }
        for split in ("train", "test")
        for cell, files in sources.items()
        for source in files
    ]


def plan_questions(
    context: StageContext, items: Sequence[Mapping[str, str]], seen: set[str], arrangements: Mapping[str, set[SceneKey]]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """What is asked about which clip, as pieces of work for `EpisodeWriter`; and how many clips came up twice.

    seen: hashes of pictures that are in the corpus already; those of the clips are added. arrangements: a set for each
    split, to which the clips' are added.
    """
    plans: list[dict[str, Any]] = []
    repeated: dict[str, int] = {}
    sketched = Sketcher()
    for split in ("test", "train"):  # of two equal clips the test keeps its own
        parts = [Path(item["part"]) for item in items if item["split"] == split]
        found: list[tuple[Sketch, ...]] = []
        for row in _rows(parts):
            arrangements[split].add((row["cell"].partition("/")[2], row["seed"]))
            found.append(() if row["digest"] in seen else sketched(asks(View.from_json(row["view"]))))
            repeated[split] = repeated.get(split, 0) + (row["digest"] in seen)
            seen.add(row["digest"])
        chosen = choose_questions(found, context.seed, test=split == "test")
        first = 0
        for part in parts:
            with open_parquet(part) as file:
                n = file.metadata.num_rows
            questions = [one.to_text() if one else "" for one in chosen[first : first + n]]
            first += n
            if any(questions):
                out = context.out / split / part.name.replace(f"{SOURCE}-{split}-", f"{SOURCE}-")
                plans.append({"part": str(part), "out": str(out), "split": split, "questions": questions})
    return plans, repeated


def _rows(parts: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """What is known of every clip, without pictures."""
    for part in parts:
        yield from read_table(part, ("cell", "seed", "view", "digest")).to_pylist()


def write_questions(context: StageContext, plans: Sequence[dict[str, Any]]) -> None:
    """Write one chat file a part."""
    arguments, workers = {"seed": context.seed}, context.resources.simulators
    asking = map_items(
        plans, EpisodeWriter, arguments=arguments, workers=workers, light=True, reads=("part",), writes=("out",)
    )
    list(asking)
