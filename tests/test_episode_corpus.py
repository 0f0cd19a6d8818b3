"""Questions drawn from real demonstrations: true, with their pictures, and nothing of the test in training."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_episodes import demonstrated

from blm.actors.sim.episode import write_episodes
from blm.actors.sim.tasks import TASKS
from blm.actors.sim.world import WorldConfig, parse_cell
from blm.model.prompts import IMAGE_PLACEHOLDER, loc_value_m
from blm.pipelines.corpora import CorporaConfig
from blm.pipelines.datasets.chat import ChatRow, read_chat
from blm.pipelines.datasets.episode_balance import Sketcher, choose_questions
from blm.pipelines.datasets.episode_parts import EpisodeWorker
from blm.pipelines.datasets.episode_questions import asks
from blm.pipelines.datasets.episode_rows import EpisodeWriter
from blm.pipelines.datasets.episode_views import View
from blm.pipelines.datasets.parquet import read_table
from blm.pipelines.datasets.phases import phases
from blm.pipelines.datasets.steps import step_words
from blm.pipelines.digital.forms import read_options

pytestmark = pytest.mark.sim


WORLD = WorldConfig(
    cells=("panda/PickCube", "panda/PushCube", "panda/StackCube"), cameras=("front", "side"), image_px=84
)
SEEDS = (0, 1, 9)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Parts of three cells' demonstrations, and their conversations, made without Ray."""
    folder = tmp_path_factory.mktemp("drawn")
    worker = EpisodeWorker(CorporaConfig(episode_questions=14), WORLD, seed=0)
    items = []
    for cell in WORLD.cells:
        source = folder / f"{parse_cell(cell).slug}.parquet"
        write_episodes(source, [demonstrated(cell, seed) for seed in SEEDS])
        for split in ("train", "test"):
            items.append({"source": str(source), "split": split, "part": str(folder / f"{split}-{source.name}")})
            worker(items[-1])
    return folder, items


def questions_of(items: list[dict[str, Any]], folder: Path, split: str) -> list[ChatRow]:
    """All conversations of a split, each part written by a worker of its own."""
    mine = [item for item in items if item["split"] == split]
    sizes = [read_table(Path(item["part"]), ("view",)).num_rows for item in mine]
    clips = [
        Sketcher()(asks(View.from_json(row["view"])))
        for item in mine
        for row in read_table(Path(item["part"]), ("view",)).to_pylist()
    ]
    chosen = [one.to_text() if one else "" for one in choose_questions(clips, seed=0, test=split == "test")]
    rows: list[ChatRow] = []
    for item, size in zip(mine, sizes, strict=True):
        out = folder / f"out-{Path(item['part']).name}"
        EpisodeWriter(seed=0)({**item, "out": str(out), "questions": chosen[:size]})
        chosen = chosen[size:]
        rows += read_chat(out)
    return rows


def test_drawn_clips_do_not_depend_on_what_else_a_worker_draws(
    drawn: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    _, items = drawn
    again = tmp_path / "again.parquet"
    EpisodeWorker(CorporaConfig(episode_questions=14), WORLD, seed=0)({**items[-2], "part": str(again)})
    assert read_table(again).to_pylist() == read_table(Path(items[-2]["part"])).to_pylist()


def test_conversations_hold_their_pictures_and_true_answers(
    drawn: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    rows = questions_of(drawn[1], tmp_path, "train")
    assert len(rows) > 40
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        text, said = row.messages[0]["text"], row.meta.get("said", row.messages[1]["text"])
        assert text.startswith(IMAGE_PLACEHOLDER * len(row.images) + "\n")
        assert all(Image.open(io.BytesIO(image)).size == (84, 84) for image in row.images)
        assert (row.meta["form"] == "choice") == ("(A)" in text)
        if row.meta["form"] == "choice":
            assert read_options(text)[row.messages[1]["text"]] == said
        assert len(row.images) == (len(row.meta["steps"]) if row.meta["video"] else len(WORLD.cameras))
        assert ("fps" in row.meta) == row.meta["video"] != ("object_positions" in row.meta)
        assert row.meta["seed"] in (0, 1)
        _check(row, said)


def _check(row: ChatRow, said: str) -> None:
    """Against the episode's own record, where that can tell."""
    episode = demonstrated(f"{row.meta['robot']}/{row.meta['task']}", row.meta["seed"])
    text, last = row.messages[0]["text"], row.meta["steps"][-1]
    if row.category == "localisation_box":
        left, top, right, bottom = (int(value) for value in said.strip("[]").split(","))
        assert 0 <= left < right <= 84
        assert 0 <= top < bottom <= 84
    elif row.category == "localisation":
        found = [loc_value_m(axis, word) for axis, word in enumerate(said.split())]
        places = episode.object_positions[last].reshape(3, 3)
        assert np.abs(places - found).max(axis=1).min() < 0.0052
    elif row.category.startswith("success"):
        of_task = any(f"<{instruction}>" in text for instruction in TASKS[episode.task].instructions)
        if of_task and row.meta["origin"] == "episode":
            assert (said == "yes") == (last >= episode.metrics["first_success_step"])
        if row.meta["origin"] != "episode":
            assert said == "no"
    elif row.category == "past_description":
        name = next(phase.name for phase in phases(episode) if phase.end == last)
        assert said == f"<{step_words(episode.task, name)}>"
    elif row.category in ("planning", "planning_with_context", "future_prediction", "generative_affordance"):
        name = next(phase.name for phase in phases(episode) if phase.first <= last < phase.end)
        assert said == f"<{step_words(episode.task, name)}>"


def test_training_and_test_questions_share_no_seed_no_picture_and_no_new_words(
    drawn: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    train, test = (questions_of(drawn[1], tmp_path, split) for split in ("train", "test"))
    assert {row.meta["seed"] for row in test} == {9}
    assert not {row.images for row in train} & {row.images for row in test}
    words = {row.messages[0]["text"].split("\n")[1] for row in train}
    assert any(row.meta["phrasing"] == "held_out" for row in test)
    assert not any(
        row.messages[0]["text"].split("\n")[1] in words for row in test if row.meta["phrasing"] == "held_out"
    )


def test_a_rollout_that_failed_is_only_asked_whether_it_succeeded(tmp_path: Path) -> None:
    whole = demonstrated("panda/PickCube", 0)
    arrays = {name: getattr(whole, name)[:9] for name in ("states", "proprio", "object_positions")}
    write_episodes(
        tmp_path / "failed.parquet", [replace(whole, success=False, metrics={}, actions=whole.actions[:8], **arrays)]
    )
    item = {"source": str(tmp_path / "failed.parquet"), "split": "train", "part": str(tmp_path / "part.parquet")}
    EpisodeWorker(CorporaConfig(episode_questions=3), WORLD, seed=0)(item)
    rows = read_table(tmp_path / "part.parquet").to_pylist()
    assert 1 <= len(rows) <= 2, "once from each camera"
    assert {ask.category for row in rows for ask in asks(View.from_json(row["view"]))} == {"success_negative"}
