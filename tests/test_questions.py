"""Questions from simulator truth: right answers, no doubtful ones, words kept apart, answers balanced."""

from collections import Counter

import numpy as np
import pytest

from blm.actors.sim.tasks import TASKS
from blm.model.prompts import LOC_TOKENS, loc_value_m, policy_messages
from blm.pipelines.datasets.balance import SLACK, choose_test_questions, choose_training_questions
from blm.pipelines.datasets.phrasings import PHRASINGS
from blm.pipelines.datasets.questions import (
    CATEGORIES,
    CHOICES,
    LOCATIONS,
    POLICY,
    answers,
    question,
    with_images,
)
from blm.pipelines.datasets.scene_facts import SceneFacts


def scene(
    task="PickCube", tool=(0.0, 0.0, 0.2), thing=(0.05, 0.1, 0.02), goal=(0.1, -0.1, 0.2), gripper=1.0, **kwargs
) -> SceneFacts:
    return SceneFacts(task=task, object_positions=(*tool, *thing, *goal), gripper=gripper, success=False, **kwargs)


def test_positions_are_answered_within_half_a_word():
    facts = scene(tool=(0.123, -0.2, 0.3))
    words = answers(facts)["gripper_position"].split()
    assert all(word in LOC_TOKENS for word in words)
    found = [loc_value_m(axis, word) for axis, word in enumerate(words)]
    np.testing.assert_allclose(found, (0.123, -0.2, 0.3), atol=0.0051)


def test_left_and_right_near_and_far_are_the_robots():
    # The robot looks along +x: what has the greater y is to its left, what has the greater x is farther away.
    found = answers(scene(thing=(0.0, 0.1, 0.02), goal=(0.1, -0.1, 0.2)))
    assert (found["side"], found["distance"]) == ("left", "nearer")
    found = answers(scene(thing=(0.2, -0.1, 0.02), goal=(0.1, 0.1, 0.2)))
    assert (found["side"], found["distance"]) == ("right", "farther")


def test_what_the_eye_cannot_decide_is_not_asked():
    found = answers(scene(tool=(0.05, 0.07, 0.05), thing=(0.05, 0.1, 0.02), goal=(0.06, 0.11, 0.2)))
    assert not {"side", "distance", "direction", "color"} & found.keys()
    nearly_done = answers(scene(thing=(0.1, -0.1, 0.172), goal=(0.1, -0.1, 0.2)))
    assert not {"done", "next_step", POLICY} & nearly_done.keys()


@pytest.mark.parametrize(
    ("offset", "direction"),
    [
        ((0.1, 0, 0), "forward"),
        ((-0.1, 0, 0), "backward"),
        ((0, 0.1, 0), "left"),
        ((0, -0.1, 0), "right"),
        ((0, 0, -0.1), "down"),
        ((0, 0, 0.1), "up"),
    ],
)
def test_direction_is_the_axis_of_the_largest_offset(offset, direction):
    tool = np.array([0.0, 0.0, 0.15])
    assert answers(scene(tool=tuple(tool), thing=tuple(tool + offset)))["direction"] == direction


@pytest.mark.parametrize(
    ("facts", "step", "held", "done"),
    [
        (scene(), "reach", "no", "no"),
        (scene(tool=(0.05, 0.1, 0.021)), "grasp", "no", "no"),
        (scene(tool=(0.05, 0.1, 0.12), thing=(0.05, 0.1, 0.12), gripper=0.5), "move", "yes", "no"),
        (scene(tool=(0.1, -0.1, 0.2), thing=(0.1, -0.1, 0.2), gripper=0.5), "done", "yes", "yes"),
    ],
)
def test_steps_of_picking(facts, step, held, done):
    found = answers(facts)
    assert (found["next_step"], found["held"], found["done"], found["task"]) == (step, held, done, "pick cube")
    assert found[POLICY] == step


@pytest.mark.parametrize(
    ("tool", "thing", "step"),
    [
        ((0.0, 0.0, 0.2), (0.0, 0.0, 0.02), "reach"),
        ((-0.03, 0.0, 0.02), (0.0, 0.0, 0.02), "push"),
        ((0.03, 0.0, 0.02), (0.0, 0.0, 0.02), "reach"),  # in front of the cube, where it cannot be pushed from
        ((-0.03, 0.0, 0.02), (0.15, 0.0, 0.02), "done"),
    ],
)
def test_steps_of_pushing(tool, thing, step):
    found = answers(scene(task="PushCube", tool=tool, thing=thing, goal=(0.2, 0.0, 0.001), gripper=0.0))
    assert found["next_step"] == step
    assert found["task"] == "push cube"
    assert "held" not in found


PLACED = {"StackCube": (0.1, 0.0, 0.04), "PlaceSphere": (0.1, 0.0, 0.005)}


@pytest.mark.parametrize("task", PLACED)
def test_steps_of_putting_down(task):
    goal = PLACED[task]
    there = (goal[0], goal[1], goal[2] + 0.02)
    lies, carried = (-0.1, 0.0, 0.02), (0.0, 0.0, 0.1)

    def found(tool, thing, gripper):
        return answers(scene(task=task, tool=tool, thing=thing, goal=goal, gripper=gripper))

    assert found((0.0, 0.0, 0.2), lies, 1.0)["next_step"] == "reach"
    assert found(lies, lies, 1.0)["next_step"] == "grasp"
    moving = found(carried, carried, 0.5)
    assert (moving["next_step"], moving["held"], moving["done"]) == ("move", "yes", "no")
    put = found(there, there, 0.5)
    assert (put["next_step"], put["held"], put["done"]) == ("release", "yes", "no"), "what is held is not put down"
    left = found((there[0], there[1], there[2] + 0.07), there, 1.0)
    assert (left["next_step"], left["held"], left["done"]) == ("done", "no", "yes")


@pytest.mark.parametrize(
    ("tool", "thing", "step"),
    [
        ((0.0, 0.0, 0.2), (0.0, 0.0, 0.02), "reach"),
        ((0.03, 0.0, 0.02), (0.0, 0.0, 0.02), "pull"),
        ((-0.03, 0.0, 0.02), (0.0, 0.0, 0.02), "reach"),  # on the side to which the cube is to go
        ((-0.12, 0.0, 0.02), (-0.15, 0.0, 0.02), "done"),
    ],
)
def test_steps_of_pulling(tool, thing, step):
    found = answers(scene(task="PullCube", tool=tool, thing=thing, goal=(-0.2, 0.0, 0.001), gripper=0.0))
    assert found["next_step"] == step
    assert found["task"] == "pull cube"
    assert "held" not in found


@pytest.mark.parametrize(
    ("tool", "height", "gripper", "success", "step", "held", "done"),
    [
        ((0.0, 0.0, 0.2), 0.025, 1.0, False, "reach", "no", "no"),
        ((-0.04, 0.0, 0.03), 0.025, 1.0, False, "grasp", "no", "no"),
        ((-0.04, 0.0, 0.06), 0.08, 0.6, False, "rotate", "yes", "no"),
        ((-0.1, 0.1, 0.1), 0.12, 1.0, True, "done", "no", "yes"),
        ((-0.04, 0.0, 0.1), 0.12, 0.6, False, None, "yes", None),  # raised, but perhaps not upright
    ],
)
def test_steps_of_standing_a_peg(tool, height, gripper, success, step, held, done):
    positions = (*tool, 0.0, 0.0, height, 0.0, 0.0, 0.0)
    facts = SceneFacts(task="LiftPegUpright", object_positions=positions, gripper=gripper, success=success)
    found = answers(facts)
    assert found.get("held") == held
    assert found.get("done") == done
    assert found.get("next_step") == (step if done is not None else None)
    assert not {"side", "distance"} & found.keys(), "the goal is under the peg"


def test_two_like_cubes_are_not_asked_about():
    assert answers(scene(task="StackCube", color="green")) == {}
    assert answers(scene(task="StackCube", color="yellow"))["color"] == "yellow"


def test_repainted_objects_are_asked_for_their_color_and_get_no_instruction():
    found = answers(scene(color="purple"))
    assert found["color"] == "purple"
    assert POLICY not in found
    assert "next_step" in found


def test_the_policy_prompt_is_the_policys_own():
    rng = np.random.default_rng(0)
    task = TASKS["PushCube"]
    for n_images in (1, 2):
        asked = with_images(question(POLICY, task, rng), n_images)
        assert asked in [policy_messages(n_images, text)[0]["text"] for text in task.instructions]
    asked = with_images(question(POLICY, task, rng, held_out=True), 1)
    assert asked in [policy_messages(1, text)[0]["text"] for text in task.held_out]


def test_every_category_has_words_of_its_own_for_testing():
    rng = np.random.default_rng(0)
    for task in TASKS.values():
        for category in CATEGORIES:
            train = {question(category, task, rng) for _ in range(100)}
            test = {question(category, task, rng, held_out=True) for _ in range(30)}
            assert not train & test
            assert not any("{" in text for text in train | test)
    assert set(PHRASINGS) == set(CATEGORIES) - {POLICY}


def lopsided_scenes(n: int = 600) -> list[dict[str, str]]:
    """One scene in ten is done, one in five pushes; places are all different."""
    rng = np.random.default_rng(0)
    scenes = []
    for i in range(n):
        step = "done" if i % 10 == 0 else ("push" if i % 5 == 1 else "reach")
        found = dict.fromkeys(LOCATIONS, f"place {i}")
        found |= {POLICY: step, "next_step": step, "done": "yes" if step == "done" else "no", "task": "push cube"}
        if rng.random() < 0.7:
            found["side"] = "left" if rng.random() < 0.8 else "right"
        if rng.random() < 0.1:
            found["color"] = str(rng.choice(["red", "blue", "white"]))
        scenes.append(found)
    return scenes


def asked_answers(scenes: list[dict[str, str]], chosen: list[list[str]]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for found, categories in zip(scenes, chosen, strict=True):
        for category in categories:
            counts.setdefault(category, Counter())[found[category]] += 1
    return counts


def test_training_conversations_hold_all_places_and_balanced_choices():
    scenes = lopsided_scenes()
    chosen = choose_training_questions(scenes, turns=6, seed=0)
    counts = asked_answers(scenes, chosen)
    for categories in chosen:
        assert set(LOCATIONS) <= set(categories)
        assert len(categories) == len(set(categories)) <= 6
        assert not {POLICY, "next_step"} <= set(categories)  # the same answer twice
    assert "task" not in counts  # every scene has the same
    assert max(counts[POLICY].values()) <= max(counts[POLICY].total() / 2, len(scenes) / 3)
    assert sum(categories[0] == POLICY for categories in chosen) > 0.4 * counts[POLICY].total()
    for category in ("side", "done"):
        more, less = (n for _, n in counts[category].most_common())
        assert more <= SLACK * less
    assert len({tuple(sorted(LOCATIONS, key=categories.index)) for categories in chosen}) == 6  # every order occurs


def test_the_task_is_asked_before_other_words_tell_it():
    scenes = [scene | {"task": ("push cube", "pick cube")[i % 2]} for i, scene in enumerate(lopsided_scenes())]
    chosen = choose_training_questions(scenes, turns=6, seed=0)
    asked = [categories for categories in chosen if "task" in categories]
    assert len(asked) > 20
    assert all(categories[0] == "task" for categories in asked)


def test_test_questions_are_one_place_and_balanced_choices():
    scenes = lopsided_scenes(200)
    chosen = choose_test_questions(scenes, per_scene=3, seed=0)
    assert all(1 <= len(categories) <= 3 for categories in chosen)
    counts = asked_answers(scenes, chosen)
    assert {c: counts[c].total() for c in LOCATIONS} == {
        "object_position": 67, "goal_position": 67, "gripper_position": 66
    }  # fmt: skip
    for category in set(CHOICES) & counts.keys():
        ordered = sorted(counts[category].values())
        assert ordered[-1] <= max(1, SLACK * ordered[(len(ordered) - 1) // 2])


def test_left_out_scenes_get_no_questions():
    scenes = [{}, *lopsided_scenes(9)]
    assert choose_training_questions(scenes, turns=6, seed=0)[0] == []
    assert choose_test_questions(scenes, per_scene=3, seed=0)[0] == []


def test_choice_depends_on_the_seed_alone():
    scenes = lopsided_scenes(100)
    assert choose_training_questions(scenes, 6, seed=1) == choose_training_questions(scenes, 6, seed=1)
    assert choose_training_questions(scenes, 6, seed=1) != choose_training_questions(scenes, 6, seed=2)
