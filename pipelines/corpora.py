"""Stage `corpora`: conversations for Stage I, in one Parquet chat schema.

Thousands of random scenes are composed and rendered by Ray Data workers, and questions that only the picture
answers are asked about them, with answers from simulator truth; a small set of plain language goes with them.
Scenes for testing have seeds of their own, and pictures that came up twice are dropped. First all scenes are
rendered to parts (a killed stage goes on with those that are left), then one look at all answers decides
which questions are asked, so that none can be answered by habit. The result does not depend on the number of
workers.

    blm corpora --preset tiny
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blm.actors.sim.world import seed_range
from blm.model.errors import UserError
from blm.pipelines.datasets.balance import choose_test_questions, choose_training_questions
from blm.pipelines.datasets.chat import chat_files, read_chat, write_chat
from blm.pipelines.datasets.items import map_items
from blm.pipelines.datasets.language import language_rows
from blm.pipelines.datasets.parquet import open_parquet, remove_leftovers
from blm.pipelines.datasets.questions import LOCATIONS, answers
from blm.pipelines.datasets.scenes import ConversationWriter, SceneWorker, facts_of
from blm.pipelines.workspace import StageContext

VERSION = 1

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

    def __post_init__(self) -> None:
        for name in ("scenes", "test_scenes", "test_questions", "language_copies", "scenes_per_file"):
            if getattr(self, name) < 1:
                raise UserError(f"corpora.{name} is {getattr(self, name)}; give 1 or more")
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
    items = _scene_items(config, context, parts)
    _render_scenes(config, context, items)
    by_split = {split: [Path(item["part"]) for item in items if item["split"] == split] for split in SPLITS}
    plans, kept = _plan_conversations(config, context, by_split)
    for split in SPLITS:
        shutil.rmtree(context.out / split, ignore_errors=True)
    arguments = {"seed": context.seed}
    list(map_items(plans, ConversationWriter, arguments=arguments, workers=context.resources.actors))
    for split, rows in zip(SPLITS, language_rows(context.seed, config.language_copies), strict=True):
        write_chat(context.out / split / "language-0000.parquet", rows)
    summary: dict[str, Any] = {split: describe(context.out / split) for split in SPLITS}
    for split in SPLITS:
        context.progress(f"{split}: {summary[split]['rows']} conversations, {summary[split]['questions']} questions")
    summary["scenes_kept"] = kept
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
    folder = context.inputs["collect"] / "episodes" / slug
    files = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
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


def _plan_conversations(
    config: CorporaConfig, context: StageContext, parts: dict[str, list[Path]]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Which questions are asked about which scene, as pieces of work; and how many scenes are kept a split.

    A scene whose pictures came up before is left out.
    """
    seen: set[str] = set()
    seeds: dict[str, set[tuple[str, int]]] = {}
    plans: list[dict[str, Any]] = []
    kept: dict[str, int] = {}
    for split in reversed(SPLITS):  # test first: of two equal pictures the test keeps its own
        scenes = []
        for fact in facts_of(parts[split]):
            scenes.append({} if fact.digest in seen else answers(fact.scene))
            seen.add(fact.digest)
            seeds.setdefault(split, set()).add((fact.cell, fact.seed))
        kept[split] = sum(map(bool, scenes))
        if split == "train":
            chosen = choose_training_questions(scenes, config.turns, context.seed)
        else:
            chosen = choose_test_questions(scenes, config.test_questions, context.seed)
        plans += _plans_by_part(parts[split], context.out / split, split, chosen)
    assert not seeds["train"] & seeds["test"], "a scene of the test split occurs in training"
    return plans, kept


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


def describe(folder: Path) -> dict[str, Any]:
    """What a folder of conversations holds: rows by source, questions by category, and each category's
    commonest answer.
    """
    rows: dict[str, int] = {}
    counts: dict[str, dict[str, int]] = {}
    for path in chat_files(folder):
        for row in read_chat(path):
            rows[row.source] = rows.get(row.source, 0) + 1
            categories = row.meta.get("categories") or [row.category]
            for category, message in zip(categories, row.messages[1::2], strict=True):
                of_category = counts.setdefault(category, {})
                of_category[message["text"]] = of_category.get(message["text"], 0) + 1
    totals = {category: sum(answered.values()) for category, answered in sorted(counts.items())}
    return {
        "rows": sum(rows.values()),
        "rows_by_source": rows,
        "questions": sum(totals.values()),
        "questions_by_category": totals,
        "answers_by_category": {category: len(counts[category]) for category in totals},
        "majority_share": {c: round(max(counts[c].values()) / total, 3) for c, total in totals.items()},
    }
