"""Stage `corpora`: conversations for Stage I, in one Parquet chat schema.

Thousands of random scenes are composed and rendered by Ray Data workers, and questions that only the picture
answers are asked about them, with answers from simulator truth (`corpora_scenes`); a set of plain language goes with
them. Scenes for testing have seeds of their own, and pictures that came up twice are dropped. On request the
demonstrations themselves are asked about as well (`corpora_episodes`), and corpora from outside, in any common
format, stand beside all that (`ingest.flow`). A killed stage goes on with the parts that are left, and the result
does not depend on the number of workers.

    blm corpora --preset tiny
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines.corpora_counts import count_questions, describe, print_mix, print_table
from blm.pipelines.corpora_episodes import draw_clips, plan_questions, write_questions
from blm.pipelines.corpora_scenes import (
    SPLITS,
    Shown,
    demonstration_files,
    plan_conversations,
    render_scenes,
    scene_items,
)
from blm.pipelines.datasets.chat import write_chat
from blm.pipelines.datasets.items import map_items
from blm.pipelines.datasets.language import language_rows
from blm.pipelines.datasets.parquet import remove_leftovers
from blm.pipelines.datasets.questions import LOCATIONS
from blm.pipelines.datasets.scenes import ConversationWriter
from blm.pipelines.ingest.options import IngestConfig, SourceConfig, check_share, check_sources
from blm.pipelines.workspace import StageContext

VERSION = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class CorporaConfig:
    """How many scenes, of which kinds, and how many questions about each."""

    scenes: int = 6000
    """Training scenes over all cells; one conversation each. 0 is allowed where there are other sources."""
    test_scenes: int = 200
    """Test scenes over all cells; none without training scenes."""
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
    recolor_share: float = 0.3
    """Share of the scenes whose object is repainted, so that its colour has to be seen."""
    language_copies: int = 4
    """How many times each plain question without a picture occurs; there are some two thousand, and facts need
    repeating. 0 leaves them out where there are other sources.
    """
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
    sources: tuple[SourceConfig, ...] = ()
    """Corpora from outside, a group of options each; see docs/corpora.md."""
    decontaminate: tuple[Path, ...] = ()
    """Folders of benchmarks whose items no outside corpus may bring into training."""
    max_rejected_share: float = 0.05
    """Records of an outside corpus that may be refused before the stage fails."""
    near_duplicates: bool = True
    """Whether rows of outside corpora nearly equal to earlier ones are left out, not only equal ones."""

    def __post_init__(self) -> None:
        for name in ("scenes", "language_copies"):
            if getattr(self, name) < (0 if self.sources else 1):
                least = "0 or more" if self.sources else "1 or more, or name other sources"
                raise UserError(f"corpora.{name} is {getattr(self, name)}; give {least}")
        for name in ("test_scenes", "test_questions", "scenes_per_file"):
            if getattr(self, name) < 1:
                raise UserError(f"corpora.{name} is {getattr(self, name)}; give 1 or more")
        check_sources(self.sources)
        check_share(self.max_rejected_share)
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
    damaged, and for sources that cannot be read.
    """
    started_s = time.perf_counter()
    parts = context.out / "parts"
    remove_leftovers(parts)
    demonstrations = _demonstrations(config, context)
    items = scene_items(config, context, parts) if config.scenes else []
    render_scenes(config, context, items)
    by_split = {split: [Path(item["part"]) for item in items if item["split"] == split] for split in SPLITS}
    shown = Shown()
    plans, kept = plan_conversations(config, context, by_split, shown)
    clip_plans, clips = _plan_clips(config, context, demonstrations, shown)
    assert not shown.arrangements["train"] & shown.arrangements["test"], "a scene of the test split occurs in training"
    for split in SPLITS:
        depot.drop(context.out / split)
    arguments, workers = {"seed": context.seed}, context.resources.simulators
    asking = map_items(
        plans, ConversationWriter, arguments=arguments, workers=workers, light=True, reads=("part",), writes=("out",)
    )
    list(asking)
    write_questions(context, clip_plans)
    if config.language_copies:
        for split, rows in zip(SPLITS, language_rows(context.seed, config.language_copies), strict=True):
            path = context.out / split / "language-0000.parquet"
            write_chat(path, rows)
            depot.keep(path)  # `_ingest` has workers read it
    ingested = _ingest(config, context)
    if not any((context.out / "test").glob("*.parquet")):
        raise UserError("corpora: there are no conversations for testing; give a source a holdout, or make scenes")
    summary: dict[str, Any] = {split: describe(context.out / split, ingested) for split in SPLITS}
    for split in SPLITS:
        context.progress(f"{split}: {summary[split]['rows']} conversations, {summary[split]['questions']} questions")
    print_mix(context, summary["train"]["rows_by_source"])
    summary["scenes_kept"] = kept
    if config.episode_questions:
        summary["episodes"] = clips | {split: count_questions(context.out / split) for split in SPLITS}
        print_table(context, summary["episodes"])
    if ingested:
        summary["sources"] = ingested
    depot.drop(parts)
    context.tracker.log_metrics({"corpora_s": time.perf_counter() - started_s, **summary})
    return summary


def _ingest(config: CorporaConfig, context: StageContext) -> dict[str, Any]:
    """The corpora from outside, beside what is written already: their reports by name."""
    if not config.sources:
        return {}
    from blm.pipelines.ingest.flow import ingest

    options = IngestConfig(
        sources=config.sources,
        decontaminate=config.decontaminate,
        max_rejected_share=config.max_rejected_share,
        near_duplicates=config.near_duplicates,
        seed=context.seed,
    )
    workers = context.resources.simulators
    return ingest(options, context.out, workers=workers, progress=context.progress, own=context.out)


def _demonstrations(config: CorporaConfig, context: StageContext) -> dict[str, list[Path]]:
    """Files of demonstrations to be asked about, by cell; none unless that is wanted. UserError if there are none."""
    if not config.episode_questions:
        return {}
    files = {cell.name: demonstration_files(context, cell.slug) for cell in context.world.parsed_cells()}
    if not any(files.values()):
        raise UserError(
            f"corpora.episode_questions is {config.episode_questions}, but there are no demonstrations to ask about;"
            " run the collect stage first, or set it to 0"
        )
    return files


def _plan_clips(
    config: CorporaConfig, context: StageContext, demonstrations: dict[str, list[Path]], shown: Shown
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Draws clips of the demonstrations, if they are to be asked about: what is asked, and how many came up twice."""
    if not demonstrations:
        return [], {}
    items = draw_clips(config, context, demonstrations)
    plans, repeated = plan_questions(context, items, shown.digests, shown.arrangements)
    return plans, {"repeated": repeated}
