"""Steps of demonstrations: read off real ones, and taken from an episode's own record."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from small_episodes import demonstrated, facts_at

from blm.actors.sim.episode import Episode
from blm.model.errors import UserError
from blm.pipelines.datasets.phases import phases
from blm.pipelines.datasets.steps import PLANS, achieved

pytestmark = pytest.mark.sim


def names(episode: Episode) -> list[str]:
    return [phase.name for phase in phases(episode)]


def unrecorded(cell: str, seed: int = 0) -> Episode:
    """A demonstration that does not say what was executed."""
    return replace(demonstrated(cell, seed), metrics={})


@pytest.mark.parametrize("task", PLANS)
def test_a_demonstration_goes_through_the_steps_of_its_task(task):
    episode = unrecorded(f"panda/{task}")
    found = phases(episode)
    assert found[0].first == 0
    assert found[-1].end == len(episode.actions)
    assert all(phase.end == following.first for phase, following in itertools.pairwise(found))
    assert [name for name in names(episode) if name not in ("retreat", "hold")] == list(PLANS[task])
    assert found[-1].name == "hold", "every demonstration ends with waiting"


@pytest.mark.parametrize("task", PLANS)
def test_what_was_executed_and_what_is_read_off_agree_to_two_control_steps(task):
    episode = demonstrated(f"panda/{task}", 0)
    recorded, read = phases(episode), phases(unrecorded(f"panda/{task}"))
    assert [phase.name for phase in recorded] == [phase.name for phase in read]
    assert all(abs(a.first - b.first) <= 2 for a, b in zip(recorded, read, strict=True))


def test_other_robots_take_the_same_steps():
    assert names(demonstrated("xarm6/StackCube", 0)) == [
        "approach", "grasp", "carry", "place", "release", "retreat", "hold"
    ]  # fmt: skip


@pytest.mark.parametrize("task", PLANS)
def test_at_its_end_a_step_has_come_about_and_before_its_middle_it_has_not(task):
    episode = demonstrated(f"panda/{task}", 0)
    judged = 0
    for phase in phases(episode):
        if phase.name in ("retreat", "hold"):
            continue
        assert achieved(phase.name, facts_at(episode, phase.end)) is not False, phase
        before = achieved(phase.name, facts_at(episode, phase.first))
        assert before is not True, phase
        judged += before is False
    assert judged >= 1


def test_what_is_grasped_is_lifted_while_carried_and_lowered_while_placed():
    episode = unrecorded("panda/StackCube")
    height_m = episode.object_positions[:, 5]
    found = {phase.name: phase for phase in phases(episode)}
    assert height_m[found["carry"].end] > height_m[found["carry"].first] + 0.03
    assert height_m[found["place"].end] < height_m[found["place"].first] - 0.01
    commands = episode.actions[:, -1]
    assert (commands[found["grasp"].first : found["place"].end] == 0.0).all()
    assert (commands[found["release"].first :] == 1.0).all()


def test_an_episode_that_begins_with_the_object_in_hand_begins_with_carrying():
    whole = unrecorded("panda/PickCube")
    carry = next(phase for phase in phases(whole) if phase.name == "carry")
    later = cut(whole, carry.first)
    assert names(later) == ["carry", "hold"]


def cut(episode: Episode, first: int) -> Episode:
    arrays = {name: getattr(episode, name)[first:] for name in ("states", "proprio", "actions", "object_positions")}
    return replace(episode, **arrays)


def test_an_arm_that_touches_nothing_only_approaches():
    whole = unrecorded("panda/PushCube")
    push = next(phase for phase in phases(whole) if phase.name == "push")
    n = push.first - 2
    arrays = {name: getattr(whole, name)[: n + 1] for name in ("states", "proprio", "object_positions")}
    assert names(replace(whole, actions=whole.actions[:n], **arrays)) == ["approach"]


def test_a_record_of_executed_primitives_is_believed():
    episode = unrecorded("panda/StackCube")
    read = phases(episode)
    at = {phase.name: phase.first for phase in read}
    recorded = [
        ["reach", 0],
        ["grip", at["grasp"]],
        ["place", at["carry"]],
        ["grip", at["release"]],
        ["retreat", at["retreat"]],
    ]
    assert phases(replace(episode, metrics={"phases": recorded})) == read, "a stroke is split where it lowers"
    shifted = [["reach", 0], ["grip", at["grasp"] + 1], *recorded[2:]]
    assert phases(replace(episode, metrics={"phases": shifted}))[1].first == at["grasp"] + 1


def test_a_retreat_before_a_second_try_belongs_to_the_approach():
    episode = unrecorded("panda/PushCube")
    push = next(phase for phase in phases(episode) if phase.name == "push").first
    recorded = [["retreat", 0], ["approach", 4], ["push", push]]
    assert names(replace(episode, metrics={"phases": recorded})) == ["approach", "push", "hold"]


@pytest.mark.parametrize("recorded", [[["reach", 5], ["push", 2]], [["reach"]], [["reach", -1]], [["reach", 10_000]]])
def test_a_senseless_record_is_refused(recorded):
    episode = unrecorded("panda/PushCube")
    with pytest.raises(UserError, match=r"panda/PushCube, seed 0: metrics\['phases'\]"):
        phases(replace(episode, metrics={"phases": recorded}))


def test_an_empty_episode_has_no_steps():
    whole = unrecorded("panda/PushCube")
    arrays = {name: getattr(whole, name)[:1] for name in ("states", "proprio", "object_positions")}
    assert phases(replace(whole, actions=np.empty((0, 8), np.float32), **arrays)) == ()
