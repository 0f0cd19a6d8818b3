"""Questions about episodes: right answers, doubtful ones left out, words kept apart, balance, real clips drawn."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_episodes import demonstrated

from blm.actors.mishaps import MISHAPS, faulty_actions, replay
from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import write_episodes
from blm.actors.sim.tasks import TASKS
from blm.actors.sim.world import WorldConfig, parse_cell
from blm.model.prompts import IMAGE_PLACEHOLDER, loc_value_m
from blm.pipelines.corpora import CorporaConfig
from blm.pipelines.datasets.chat import ChatRow, read_chat
from blm.pipelines.datasets.clips import KINDS, Clip, choose_clip
from blm.pipelines.datasets.episode_balance import Chosen, Sketch, Sketcher, choose_questions, n_options
from blm.pipelines.datasets.episode_parts import EpisodeWorker
from blm.pipelines.datasets.episode_questions import asks
from blm.pipelines.datasets.episode_rows import EpisodeWriter
from blm.pipelines.datasets.episode_views import EPISODE_CATEGORIES, SHAREROBOT, Ask, View
from blm.pipelines.datasets.episode_words import EPISODE_PHRASINGS, shared_words, with_options, wording
from blm.pipelines.datasets.parquet import read_table
from blm.pipelines.datasets.phases import Phase, phases
from blm.pipelines.datasets.scene_facts import SceneFacts
from blm.pipelines.datasets.steps import PLANS, achieved, listed, possible, step_words
from blm.pipelines.digital_forms import read_options

pytestmark = pytest.mark.sim

WORLD = WorldConfig(
    cells=("panda/PickCube", "panda/PushCube", "panda/StackCube"), cameras=("front", "side"), image_px=84
)
SEEDS = (0, 1, 9)


def facts(
    task="StackCube",
    tool=(-0.1, 0.1, 0.15),
    thing=(0.0, -0.05, 0.02),
    goal=(0.05, 0.1, 0.04),
    gripper=1.0,
    success=False,
) -> SceneFacts:
    return SceneFacts(task=task, object_positions=(*tool, *thing, *goal), gripper=gripper, success=success)


def view(scene: SceneFacts, clip: Clip, robot: str = "panda") -> View:
    points = tuple(float(value) for value in (10, 11, 20, 21, 30, 31))
    return View(
        robot=robot, clip=clip, facts=scene, points_px=(points, points), boxes_px=((18, 19, 23, 24), None), side_px=84
    )


def still(task: str, at: int) -> Clip:
    """A still of a task with so many steps behind it."""
    return Clip(kind="still", start=5, end=5, done=PLANS[task][:at], ahead=PLANS[task][at:])


def by_category(found: list[Ask]) -> dict[str, list[Ask]]:
    grouped: dict[str, list[Ask]] = {}
    for ask in found:
        grouped.setdefault(ask.category, []).append(ask)
    return grouped


HELD = {"tool": (0.0, -0.05, 0.1), "thing": (0.0, -0.05, 0.1), "gripper": 0.5}
PLACED = {"tool": (0.05, 0.1, 0.06), "thing": (0.05, 0.1, 0.06), "gripper": 0.5}


# ------------------------------------------------------------------------------------------------------- judgements


@pytest.mark.parametrize(
    ("scene", "able"),
    [
        (facts(), {"approach": True, "grasp": False, "carry": False, "place": False, "release": False}),
        (facts(tool=(0.0, -0.05, 0.021)), {"approach": None, "grasp": True, "carry": False, "release": False}),
        (facts(**HELD), {"approach": False, "grasp": False, "carry": True, "place": None, "release": None}),
        (facts(**PLACED), {"approach": False, "grasp": False, "carry": None, "release": True}),
    ],
)
def test_what_can_be_done_at_once(scene: SceneFacts, able: dict[str, bool | None]) -> None:
    assert {step: possible(step, scene) for step in able} == able


def test_what_has_been_achieved() -> None:
    assert achieved("approach", facts()) is False
    assert achieved("approach", facts(tool=(0.0, -0.05, 0.021))) is True
    assert (achieved("grasp", facts()), achieved("grasp", facts(**HELD))) == (False, True)
    assert (achieved("carry", facts(**HELD)), achieved("place", facts(**HELD))) == (False, False)
    over = facts(tool=(0.05, 0.1, 0.1), thing=(0.05, 0.1, 0.1), gripper=0.5)
    assert (achieved("carry", over), achieved("place", over)) == (True, None)
    assert (achieved("place", facts(**PLACED)), achieved("release", facts(**PLACED))) == (True, False)
    left = facts(tool=(0.05, 0.1, 0.13), thing=(0.05, 0.1, 0.06))
    assert achieved("release", left) is True


# -------------------------------------------------------------------------------------------------------- questions


def test_a_still_before_the_grasp_is_asked_what_comes_and_what_can_be_done() -> None:
    found = by_category(asks(view(facts(), still("StackCube", 0))))
    assert found["planning"][0].answer == "<reach the red cube>"
    assert found["planning_remaining_steps"][0].answer.startswith("1-<reach the red cube>, 2-<grasp the red cube>")
    assert "planning_with_context" not in found, "nothing is behind it"
    assert [ask.slots["step"] for ask in found["discriminative_affordance_positive"]] == ["reach the red cube"]
    barred = {ask.slots["step"] for ask in found["discriminative_affordance_negative"]}
    assert {"grasp the red cube", "let go of the red cube", "grasp the blue ball", "turn the peg upright"} <= barred
    assert not {"carry the red cube to the green ball"} & barred, "there is a red cube; nobody says which green thing"
    assert {ask.slots["step"] for ask in found["success_negative"]} == {"{task}"}
    assert "past_description" not in found
    assert "success_positive" not in found


def test_a_doubtful_still_is_not_asked_for_steps() -> None:
    near = facts(tool=(0.0, -0.05, 0.045))  # neither there nor clearly away
    found = by_category(asks(view(near, still("StackCube", 0))))
    assert not {"planning", "planning_remaining_steps", "generative_affordance"} & found.keys()


def test_a_video_of_a_step_is_asked_what_was_done_and_what_follows() -> None:
    clip = Clip(kind="step", start=3, end=12, done=("approach",), shown="approach", ahead=PLANS["StackCube"][1:])
    found = by_category(asks(view(facts(tool=(0.0, -0.05, 0.021)), clip)))
    assert found["past_description"][0].answer == "<reach the red cube>"
    (future,) = found["future_prediction"]
    assert (future.slots["step"], future.answer) == ("reach the red cube", "<grasp the red cube>")
    (context,) = found["planning_with_context"]
    assert (context.slots["context"], context.answer) == ("1-<reach the red cube>", "<grasp the red cube>")
    assert found["success_positive"][0].slots["step"] == "reach the red cube"
    assert "success_negative" not in found
    assert not {"spatial_relation", "localisation", "localisation_box"} & found.keys(), "moments are for stills"


def test_a_step_cut_short_and_a_mishap_have_not_succeeded() -> None:
    clip = Clip(kind="partial", start=0, end=5, shown="carry", done=("approach", "grasp"), ahead=("carry", "place"))
    found = by_category(asks(view(facts(**HELD), clip)))
    assert list(found) == ["success_negative"]
    fallen = Clip(kind="mishap", start=0, end=9, shown="carry", mishap="dropped", spoiled=("carry",))
    found = by_category(asks(view(facts(), fallen)))
    steps = {ask.slots["step"] for ask in found.pop("success_negative")}
    assert steps == {"{task}", "carry the red cube over the green cube"}
    assert not found


def test_left_and_far_are_the_robots_and_like_offsets_are_not_asked_about() -> None:
    scene = facts(tool=(0.0, 0.05, 0.17), thing=(0.0, -0.1, 0.02), goal=(0.01, 0.1, 0.04))
    relations = by_category(asks(view(scene, still("StackCube", 0))))["spatial_relation"]
    told = {(ask.slots["first"], ask.slots["second"]): ask.answer for ask in relations}
    assert told["red cube", "green cube"] == "to the right"
    assert told["green cube", "red cube"] == "to the left"
    assert ("gripper", "red cube") not in told, "as far above as beside"
    assert all(ask.answer not in ask.wrong and len(set(ask.wrong)) == 5 for ask in relations)


def test_things_are_counted_placed_and_named() -> None:
    scene = facts()
    found = by_category(asks(view(scene, still("StackCube", 0), robot="xarm7")))
    counted = {ask.slots["things"]: ask.answer for ask in found["counting"]}
    assert counted == {"cubes": "2", "balls": "0", "bins": "0", "pegs": "0", "round targets": "0"}
    for ask, place in zip(found["localisation"], scene.points_m, strict=True):
        words = [loc_value_m(axis, word) for axis, word in enumerate(ask.answer.split())]
        np.testing.assert_allclose(words, place, atol=0.0051)
    assert [ask.slots["first"] for ask in found["localisation"]] == ["gripper", "red cube", "top of the green cube"]
    assert [ask.answer for ask in found["localisation_point"]][:2] == ["[10, 11]", "[20, 21]"]
    assert [ask.answer for ask in found["localisation_box"]] == ["[18, 19, 23, 24]"]
    (robot,) = found["robot_identification"]
    assert robot.answer == "UFACTORY xArm"
    assert "UFACTORY xArm" not in robot.wrong


def test_what_cannot_be_seen_is_not_asked_about() -> None:
    hidden = replace(view(facts(), still("StackCube", 0)), boxes_px=(None, None))
    found = by_category(asks(hidden))
    assert not {"counting", "spatial_relation", "localisation_box"} & found.keys()
    assert "red cube" not in {ask.slots["first"] for ask in found["localisation"] + found["localisation_point"]}


def test_where_only_the_target_tells_pushing_from_pulling_steps_of_the_other_are_no_options() -> None:
    behind = facts(task="PushCube", tool=(-0.1, 0.0, 0.2), thing=(0.0, 0.0, 0.02), goal=(0.2, 0.0, 0.001))
    found = by_category(asks(view(behind, still("PushCube", 0))))
    for ask in (*found["planning"], *found["generative_affordance"]):
        assert not {
            "<pull the blue cube into the red and white target>",
            "<move the gripper beyond the blue cube>",
        } & set(ask.wrong)


@pytest.mark.parametrize("task", PLANS)
def test_every_wrong_option_is_wrong(task: str) -> None:
    for at in range(len(PLANS[task])):
        clip = Clip(
            kind="step", start=0, end=5, done=PLANS[task][: at + 1], shown=PLANS[task][at], ahead=PLANS[task][at + 1 :]
        )
        for ask in asks(view(facts(task=task), clip)):
            assert ask.answer not in ask.wrong
            assert len(set(ask.wrong)) == len(ask.wrong)
            if ask.category not in ("success_positive", "success_negative"):
                assert n_options(ask) in (0, 4), ask


def test_a_view_survives_being_written_down() -> None:
    clip = Clip(kind="mishap", start=0, end=9, shown="carry", mishap="dropped", spoiled=("carry",), fault_side=-1.0)
    one = view(facts(), clip)
    assert View.from_json(one.to_json()) == one


# ------------------------------------------------------------------------------------------------------------ words


def test_every_category_has_words_of_its_own_for_testing() -> None:
    assert {shared_words(category) for category in EPISODE_CATEGORIES} == set(EPISODE_PHRASINGS)
    assert len(SHAREROBOT) == 10
    slots = dict.fromkeys(("context", "step", "first", "second", "things", "picture"), "thing")
    rng = np.random.default_rng(0)
    for category in EPISODE_CATEGORIES:
        for task in TASKS.values():
            train = {wording(category, task, slots, rng, held_out=False) for _ in range(40)}
            test = {wording(category, task, slots, rng, held_out=True) for _ in range(40)}
            assert len(train) >= 3
            assert not train & test
            assert not any("{" in text for text in train | test)


def test_yes_and_no_are_asked_for_in_the_same_words() -> None:
    for half in ("success", "discriminative_affordance"):
        assert shared_words(f"{half}_positive") == shared_words(f"{half}_negative")


def test_options_are_lettered_and_read_back() -> None:
    text = with_options("Which?", ("<a>", "<b c>"))
    assert text.split("\n")[1:3] == ["(A) <a>", "(B) <b c>"]
    assert read_options(text) == {"A": "<a>", "B": "<b c>"}
    assert listed("PickCube", ("grasp", "carry")) == "1-<grasp the red cube>, 2-<carry the red cube to the green ball>"


# ---------------------------------------------------------------------------------------------------------- balance


def lopsided(n: int = 900) -> list[tuple[Sketch, ...]]:
    """Three in four are negative; one noun is always there; places are all different."""
    rng = np.random.default_rng(1)
    sketched = Sketcher()
    clips = []
    for i in range(n):
        half = "positive" if rng.random() < 0.25 else "negative"
        step = str(rng.choice(["grasp", "push"]))
        found = [
            Ask(category=f"success_{half}", answer="yes" if half == "positive" else "no", topic=step, wrong=("x",)),
            Ask(category="success_negative", answer="no", topic="only ever no", wrong=("yes",)),
            Ask(category="localisation_point", answer=str([i, i]), topic="gripper"),
            Ask(category="localisation_point", answer=str([i, i + 1]), topic="cube"),
            Ask(category="counting", answer="1", topic="arms", wrong=("0", "2", "3")),
            Ask(category="counting", answer=str(int(rng.random() < 0.1)), topic="balls", wrong=("2", "3", "4")),
        ]
        if rng.random() < 0.5:
            answer = str(rng.choice(["<a>", "<b>", "<c>"], p=[0.8, 0.1, 0.1]))
            found.append(Ask(category="planning", answer=answer, wrong=("<d>", "<e>", "<f>", "<g>")))
        clips.append(sketched(found))
    return clips


def picked(clips: list[tuple[Sketch, ...]], chosen: list[Chosen | None]) -> list[tuple[Sketch, Chosen]]:
    return [(clips[i][one.ask], one) for i, one in enumerate(chosen) if one is not None]


def test_categories_answers_and_letters_come_out_even() -> None:
    clips = lopsided()
    found = picked(clips, choose_questions(clips, seed=0, test=False))
    sizes = Counter(ask.category for ask, _ in found)
    assert sizes["success_positive"] == sizes["success_negative"] > 40
    assert max(sizes.values()) <= 1.3 * sorted(sizes.values())[len(sizes) // 2]
    topics = Counter((ask.topic, ask.answer) for ask, _ in found if ask.category.startswith("success"))
    assert {topic for topic, _ in topics} == {"grasp", "push"}, "what only ever has one answer is not asked"
    for step in ("grasp", "push"):
        assert topics[step, "no"] <= 1.3 * topics[step, "yes"]
    balls = Counter(ask.answer for ask, _ in found if ask.category == "counting")
    assert max(balls.values()) <= 1.3 * min(balls.values())
    plans = Counter(ask.answer for ask, _ in found if ask.category == "planning")
    assert max(plans.values()) <= 1.3 * sorted(plans.values())[1], "of four times as many"
    for category in ("planning", "counting"):
        letters = Counter(one.letter for ask, one in found if ask.category == category and one.letter is not None)
        assert set(letters) == {0, 1, 2, 3}
        assert max(letters.values()) - min(letters.values()) <= 1
        free = sum(one.letter is None for ask, one in found if ask.category == category)
        assert abs(letters.total() - free) <= 1
    places = Counter(ask.topic for ask, one in found if ask.category == "localisation_point" and one.letter is None)
    assert places.total() == sizes["localisation_point"], "a place in a picture is no matter of choice"
    assert max(places.values()) <= 1.3 * min(places.values()), "each thing is asked for"


def test_test_questions_are_half_in_new_words_and_training_ones_never() -> None:
    clips = lopsided()
    assert not any(one.held_out for _, one in picked(clips, choose_questions(clips, seed=0, test=False)))
    found = picked(clips, choose_questions(clips, seed=0, test=True))
    for form in (True, False):
        new = [one.held_out for _, one in found if (one.letter is not None) == form]
        assert 0.4 < np.mean(new) < 0.6


def test_the_choice_depends_on_the_seed_alone_and_survives_being_written_down() -> None:
    clips = lopsided(200)
    chosen = choose_questions(clips, seed=1, test=True)
    assert chosen == choose_questions(clips, seed=1, test=True)
    assert chosen != choose_questions(clips, seed=2, test=True)
    assert [Chosen.from_text(one.to_text()) for one in chosen if one] == [one for one in chosen if one]
    assert choose_questions([(), *clips], seed=1, test=False)[0] is None


# ------------------------------------------------------------------------------------------------------- real clips


def test_clips_lie_within_the_episode_and_show_what_they_say() -> None:
    found = phases(demonstrated("panda/StackCube", 0))
    ends = {phase.name: phase.end for phase in found}
    kinds = set()
    for i in range(200):
        clip = choose_clip("StackCube", found, np.random.default_rng(i))
        assert clip is not None
        kinds.add(clip.kind)
        moments = clip.moments(4)
        assert list(moments) == sorted(set(moments))
        assert moments[0] >= 0
        assert moments[-1] == clip.end <= found[-1].end
        assert len(moments) == (4 if clip.video else 1)
        if clip.kind in ("step", "history"):
            assert clip.end == ends[clip.shown]
            assert (*clip.done, *clip.ahead) == PLANS["StackCube"]
        if clip.kind == "partial":
            assert clip.end < ends[clip.shown]
    assert kinds == set(KINDS)
    assert choose_clip("StackCube", [Phase(name="hold", first=0, end=9)], np.random.default_rng(0)) is None


def test_of_a_second_try_no_step_is_named() -> None:
    twice = [Phase(name=name, first=i, end=i + 9) for i, name in enumerate(("approach", "grasp", "approach", "grasp"))]
    for i in range(20):
        clip = choose_clip("PickCube", twice, np.random.default_rng(i))
        assert clip is not None
        assert (clip.kind, clip.done, clip.ahead) == ("still", (), ())


@pytest.mark.parametrize(
    ("task", "mishap"), [("PickCube", m) for m in MISHAPS] + [("PushCube", m) for m in MISHAPS[1::2]]
)
def test_mishaps_fail_and_repeat_exactly(task: str, mishap: str) -> None:
    episode = demonstrated(f"panda/{task}", 0)
    env = CellEnv(parse_cell(episode.cell))
    undisturbed = replay(env, episode, episode.actions)
    assert undisturbed.success
    np.testing.assert_allclose(undisturbed.object_positions[-1], episode.object_positions[-1], atol=0.02)
    moving = next(phase for phase in phases(episode) if phase.name in ("carry", "push"))
    actions = faulty_actions(episode, mishap, (2 * moving.first + moving.end) // 3, 1.0)
    run = replay(env, episode, actions)
    assert not run.success
    np.testing.assert_array_equal(replay(env, episode, actions).states, run.states)
    env.close()
    with pytest.raises(ValueError, match="unknown mishap"):
        faulty_actions(episode, "explode", 0, 1.0)


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
