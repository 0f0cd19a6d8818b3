"""Questions about episodes: right answers, doubtful ones left out."""

from dataclasses import replace

import numpy as np
import pytest
from small_views import HELD, by_category, facts, still, view

from blm.model.prompts import loc_value_m
from blm.pipelines.datasets.clips import Clip
from blm.pipelines.datasets.episode_balance import n_options
from blm.pipelines.datasets.episode_questions import asks
from blm.pipelines.datasets.episode_views import View
from blm.pipelines.datasets.steps import PLANS


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
