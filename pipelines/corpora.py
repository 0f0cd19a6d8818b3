"""Stage `corpora`: conversations for Stage I, in one Parquet chat schema.

Thousands of random scenes are composed and rendered by Ray Data workers, and questions that only the picture
answers are asked about them, with answers from simulator truth; a small set of plain language goes with them.
Scenes for testing have seeds of their own, and pictures that came up twice are dropped. First all scenes are
rendered to parts (a killed stage goes on with those that are left), then one look at all answers decides
which questions are asked, so that none can be answered by habit. The result does not depend on the number of
workers. On request the demonstrations themselves are asked about as well: see `corpora_episodes`.

    blm corpora --preset tiny
"""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from blm.actors.sim.episode import episode_files
from blm.actors.sim.world import seed_range
from blm.model.errors import UserError
from blm.pipelines.corpora_counts import count_questions, describe, print_table
from blm.pipelines.corpora_episodes import draw_clips, plan_questions, write_questions
from blm.pipelines.datasets.balance import choose_test_questions, choose_training_questions
from blm.pipelines.datasets.chat import write_chat
from blm.pipelines.datasets.items import map_items
from blm.pipelines.datasets.language import language_rows
from blm.pipelines.datasets.parquet import open_parquet, remove_leftovers
from blm.pipelines.datasets.questions import LOCATIONS, answers
from blm.pipelines.datasets.scenes import ConversationWriter, SceneWorker, facts_of
from blm.pipelines.workspace import StageContext

VERSION = 2

SPLITS = ("train", "test")
FILES = 12
"""Files of demonstrations that one piece of work draws from, where there are so many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorporaConfig:
    """How many scenes, of which kinds, and how many questions about each."""

    scenes: int = 6000
    """Training scenes over all cells; one conversation each."""
    test_scenes: int = 200
    """Test scenes over all cells."""
    turns: int = 6
    """Questions in a training conversation: three ask where things are, the others are drawn so that answers
    balance.
    """
    test_questions: int = 3
    """Separate test questions about a test scene."""
    episode_share: float = 0.5
    """Share of the scenes that are moments of demonstrations."""
    move_share: float = 0.7
    """Share of the other scenes in which the arm takes a random posture."""
    recolor_share: float = 0.2
    """Share of the scenes whose object is repainted, so that its colour has to be seen."""
    language_copies: int = 6
    """How many times each plain question without a picture occurs; there are few hundred, and facts need repeating."""
    image_format: Literal["png", "jpeg"] = "png"
    """How pictures are stored."""
    scenes_per_file: int = 100
    """Scenes rendered as one piece of work and stored in one file."""
    episode_questions: int = 0
    """Clips of each demonstration, stills and videos, of which one question each is asked; what cannot be balanced, one
    in ten with many cells and more with few, goes. 0: questions about single scenes only, which is what a model made
    from scratch has room for.
    """
    video_frames: int = 4
    """Pictures of a video."""

    def __post_init__(self) -> None:
        for name in ("scenes", "test_scenes", "test_questions", "language_copies", "scenes_per_file"):
            if getattr(self, name) < 1:
                raise UserError(f"corpora.{name} is {getattr(self, name)}; give 1 or more")
        if self.episode_questions < 0:
            raise UserError(f"corpora.episode_questions is {self.episode_questions}; give 0 or more")
        if self.video_frames < 2:
            raise UserError(f"corpora.video_frames is {self.video_frames}; give 2 or more")
        if self.turns < len(LOCATIONS):
            raise UserError(
                f"corpora.turns is {self.turns}; give {len(LOCATIONS)} or more, one for each place asked for"
            )
        for name in ("episode_share", "move_share", "recolor_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"corpora.{name} is {getattr(self, name)}; give a share from 0 to 1")
        if self.image_format not in ("png", "jpeg"):
            raise UserError(f"corpora.image_format is {self.image_format!r}; give png or jpeg")


def corpora(config: CorporaConfig, context: StageContext) -> dict[str, Any]:
    """Write `train/*.parquet` and `test/*.parquet`. Returns counts and, per category, the share of its
    commonest answer.

    Uses the demonstrations of `context.inputs["collect"]` where given. UserError if one of their files is
    damaged.
    """
    started_s = time.perf_counter()
    parts = context.out / "parts"
    remove_leftovers(parts)
    demonstrations = _demonstrations(config, context)
    items = _scene_items(config, context, parts)
    _render_scenes(config, context, items)
    by_split = {split: [Path(item["part"]) for item in items if item["split"] == split] for split in SPLITS}
    shown = _Shown()
    plans, kept = _plan_conversations(config, context, by_split, shown)
    clip_plans, clips = _plan_clips(config, context, demonstrations, shown)
    assert not shown.arrangements["train"] & shown.arrangements["test"], "a scene of the test split occurs in training"
    for split in SPLITS:
        shutil.rmtree(context.out / split, ignore_errors=True)
    arguments = {"seed": context.seed}
    list(map_items(plans, ConversationWriter, arguments=arguments, workers=context.resources.actors))
    write_questions(context, clip_plans)
    for split, rows in zip(SPLITS, language_rows(context.seed, config.language_copies), strict=True):
        write_chat(context.out / split / "language-0000.parquet", rows)
    summary: dict[str, Any] = {split: describe(context.out / split) for split in SPLITS}
    for split in SPLITS:
        context.progress(f"{split}: {summary[split]['rows']} conversations, {summary[split]['questions']} questions")
    summary["scenes_kept"] = kept
    if config.episode_questions:
        summary["episodes"] = clips | {split: count_questions(context.out / split) for split in SPLITS}
        print_table(context, summary["episodes"])
    shutil.rmtree(parts)
    context.tracker.log_metrics({"corpora_s": time.perf_counter() - started_s, **summary})
    return summary


# ---------------------------------------------------------------------------------------------------- scenes


def _scene_items(config: CorporaConfig, context: StageContext, parts: Path) -> list[dict[str, Any]]:
    """Pieces of work: up to `scenes_per_file` scenes of one cell and split, and the demonstrations to draw from."""
    cells = context.world.parsed_cells()
    items = []
    for split, total in zip(SPLITS, (config.scenes, config.test_scenes), strict=True):
        seeds = seed_range(f"corpora_{split}")
        if total > len(seeds):
            raise UserError(f"corpora asks for {total} {split} scenes; there are {len(seeds)} seeds for them")
        for k, cell in enumerate(cells):
            n = total // len(cells) + (k < total % len(cells))
            sources = _episode_files(context, cell.slug)
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


def _episode_files(context: StageContext, slug: str) -> list[Path]:
    """The kept demonstrations of a cell, none if the stage runs without them. UserError if a file is damaged."""
    if "collect" not in context.inputs:
        return []
    files = episode_files(context.inputs["collect"], slug)
    for path in files:
        open_parquet(path).close()
    return files


def _render_scenes(config: CorporaConfig, context: StageContext, items: list[dict[str, Any]]) -> None:
    waiting = [item for item in items if not Path(item["part"]).exists()]
    if len(waiting) < len(items):
        context.progress(f"{len(items) - len(waiting)} of {len(items)} parts were rendered before")
    started_s = time.perf_counter()
    n_scenes = 0
    arguments = {"config": config, "world": context.world, "seed": context.seed}
    results = map_items(waiting, SceneWorker, arguments=arguments, workers=context.resources.actors)
    for done, result in enumerate(results, start=1):
        n_scenes += result["scenes"]
        if done == len(waiting) or done % max(1, len(waiting) // 6) == 0:
            rate = n_scenes / (time.perf_counter() - started_s)
            context.progress(f"{done}/{len(waiting)} parts, {n_scenes} scenes, {rate:.0f} scenes/s")


# --------------------------------------------------------------------------------------------- conversations


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the corpus shows so far."""

    digests: set[str] = field(default_factory=set)
    """Hashes of pictures."""
    arrangements: dict[str, set[tuple[str, int]]] = field(default_factory=lambda: {split: set() for split in SPLITS})
    """Tasks with their seeds, by split."""


def _plan_conversations(
    config: CorporaConfig, context: StageContext, parts: dict[str, list[Path]], shown: _Shown
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


def _demonstrations(config: CorporaConfig, context: StageContext) -> dict[str, list[Path]]:
    """Files of demonstrations to be asked about, by cell; none unless that is wanted. UserError if there are none."""
    if not config.episode_questions:
        return {}
    files = {cell.name: _episode_files(context, cell.slug) for cell in context.world.parsed_cells()}
    if not any(files.values()):
        raise UserError(
            f"corpora.episode_questions is {config.episode_questions}, but there are no demonstrations to ask about;"
            " run the collect stage first, or set it to 0"
        )
    return files


def _plan_clips(
    config: CorporaConfig, context: StageContext, demonstrations: dict[str, list[Path]], shown: _Shown
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Draws clips of the demonstrations, if they are to be asked about: what is asked, and how many came up twice."""
    if not demonstrations:
        return [], {}
    items = draw_clips(config, context, demonstrations)
    plans, repeated = plan_questions(context, items, shown.digests, shown.arrangements)
    return plans, {"repeated": repeated}


def _plans_by_part(parts: list[Path], folder: Path, split: str, chosen: list[list[str]]) -> list[dict[str, Any]]:
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
