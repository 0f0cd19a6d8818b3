"""A policy in processes of its own: one that cannot be loaded, one that hangs, one that dies."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from blm.actors.policy import RemotePolicy, ServingOptions, start_policy
from blm.actors.sim.outcome import Failure, RolloutConfig, RolloutItem
from blm.actors.sim.policies import PolicyError, PolicyTimeoutError, RandomPolicy
from blm.actors.sim.tasks import TASKS
from blm.actors.sim.world import WorldConfig, parse_cell, seed_range
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
LIMIT_S = 1.5
FIRST = seed_range("evaluate").start
"""The episode of this scene in PushCube, by its instruction, is one over which the policy hangs."""


class Moody(RandomPolicy):
    """Random actions. Some instructions make it misbehave."""

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        for word in {observation.instruction for observation in observations}:
            if word == "hang" or word == TASKS["PushCube"].instructions[FIRST % 3]:
                time.sleep(600)
            if word == "hang with Python's lock":  # as native code that does not let go of it: no thread can run
                ctypes.PyDLL(None).sleep(600)
            if word == "die":
                os._exit(1)
            if word == "break":
                raise ZeroDivisionError("a bug")
            if word == "refuse":
                raise UserError("no such camera")
        return super().infer_batch(observations, seeds, prefixes)


def fail_to_load(path: Path) -> RandomPolicy:
    raise UserError(f"{path} does not exist")


def die_at_first(marker: Path) -> RandomPolicy:
    """A policy during the first loading of which its process dies."""
    if not marker.exists():
        marker.touch()
        os._exit(1)
    return RandomPolicy()


def observation(text: str = "go") -> Observation:
    return Observation(images={}, state=np.array([0.0] * 7 + [1.0], np.float32), instruction=text, embodiment="panda")


@pytest.fixture(scope="module")
def policy(ray_cluster: None) -> Iterator[RemotePolicy]:
    policy = start_policy("moody", Moody, ServingOptions(limit_s=LIMIT_S))
    yield policy
    policy.stop()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("break", PolicyError, "ZeroDivisionError: a bug"),
        ("refuse", UserError, "no such camera"),
        ("hang", PolicyTimeoutError, "no answer within 1.5 s"),
        ("hang with Python's lock", PolicyTimeoutError, "no answer within 1.5 s"),
        ("die", PolicyError, "process died 4 times"),
    ],
)
def test_what_goes_wrong_is_told_and_the_next_one_is_answered(
    policy: RemotePolicy, text: str, kind: type[Exception], message: str
) -> None:
    restarts = policy.load().restarts
    with pytest.raises(kind, match=message) as caught:
        policy.infer_batch([observation(text)], [1])
    assert caught.type is kind
    assert policy.load().restarts - restarts == {"break": 0, "refuse": 0, "die": 4}.get(text, 1)
    (chunk,) = policy.infer_batch([observation()], [7])
    assert np.array_equal(chunk.actions, RandomPolicy().infer_batch([observation()], [7])[0].actions)


def test_a_policy_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    make: Callable[[], RandomPolicy] = partial(fail_to_load, tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing does not exist"):
        start_policy("nothing", make)


def test_a_process_that_dies_while_it_loads_the_policy_is_followed_by_another(tmp_path: Path) -> None:
    policy = start_policy("shaky", partial(die_at_first, tmp_path / "died"))
    assert (tmp_path / "died").exists()
    assert len(policy.infer_batch([observation()], [7])) == 1
    policy.stop()


@pytest.mark.sim
def test_the_episode_over_which_a_policy_hangs_fails_and_the_others_go_on(policy: RemotePolicy) -> None:
    from blm.actors.sim.runner import RolloutRunner

    world, push = WorldConfig(cells=("panda/PushCube",)), parse_cell("panda/PushCube")
    runner = RolloutRunner(world, RolloutConfig(max_steps=8), policy, slots=3)
    results = [
        one.result for one in runner.run([RolloutItem(cell=push, seed=seed) for seed in range(FIRST, FIRST + 3)])
    ]
    runner.close()
    assert [result.error for result in results] == [True, False, False]
    assert results[0].failure == Failure.POLICY_ERROR
    assert "no answer within 1.5 s" in results[0].detail
    assert [result.steps for result in results] == [0, 8, 8]
