"""Rollouts that go wrong: what a policy or the simulator does amiss fails its episode, and no other."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from small_policy import SpoiltPolicy
from small_rollouts import FIRST, WORLD, items, results, run

from blm.actors.sim.execution_options import ExecutionConfig
from blm.actors.sim.outcome import Failure, RolloutConfig, distances, was_dropped, why_time_was_up
from blm.actors.sim.policies import PolicyTimeoutError, RandomPolicy
from blm.actors.sim.runner import RolloutRunner
from blm.actors.sim.tasks import TASKS
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes, refuse_prefixes


class BrokenPolicy(SpoiltPolicy):
    """As `SpoiltPolicy`, in further ways."""

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        if self.how in ("crash", "few") and any(one.instruction == self.instruction for one in observations):
            return [] if self.how == "few" else [1 // 0]
        return super().infer_batch(observations, seeds)

    def _spoil(self, chunk: ActionChunk) -> ActionChunk:
        return None if self.how == "nothing" else super()._spoil(chunk)


@pytest.fixture(scope="module")
def kept_runner() -> RolloutRunner:
    return RolloutRunner(WORLD, RolloutConfig(), RandomPolicy(), slots=4)


@pytest.mark.sim
@pytest.mark.parametrize(
    ("how", "failure", "detail"),
    [
        ("nan", Failure.BAD_ACTION, "8 values that are not finite"),
        ("narrow", Failure.BAD_ACTION, r"\[16, 7\]"),
        ("short", Failure.BAD_ACTION, r"\[3, 8\]"),
        ("rate", Failure.BAD_ACTION, "50 Hz"),
        ("nothing", Failure.BAD_ACTION, "NoneType"),
        ("error", Failure.POLICY_ERROR, "PolicyError: cannot look at this"),
        ("crash", Failure.POLICY_ERROR, "ZeroDivisionError"),
        ("few", Failure.POLICY_ERROR, "0 chunks for 1 observations"),
    ],
)
def test_a_wrong_answer_fails_its_episode_with_the_reason_and_no_other(
    kept_runner: RolloutRunner, tmp_path: Path, how: str, failure: Failure, detail: str
) -> None:
    policy = BrokenPolicy(how, TASKS["PushCube"].instructions[FIRST % 3])
    finished = run(kept_runner, policy, items([FIRST, FIRST + 1], keep=tmp_path))
    bad, good = results(finished)
    assert (bad.failure, bad.error, bad.success, bad.steps) == (failure, True, False, 0)
    assert re.search(detail, bad.detail)
    assert finished[0].episode is None
    assert not good.error
    assert good.steps > 8


@pytest.mark.sim
def test_who_waits_in_vain_is_not_asked_for_again_and_what_no_policy_can_do_ends_the_run() -> None:
    asked: list[int] = []

    class Hanging(RandomPolicy):
        def infer_batch(
            self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
        ) -> list[ActionChunk]:
            asked.append(len(seeds))
            raise PolicyTimeoutError("no answer within 3 s")

    class Rigid(RandomPolicy):
        def infer_batch(
            self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
        ) -> list[ActionChunk]:
            refuse_prefixes("rigid", prefixes)
            return super().infer_batch(observations, seeds)

    config = RolloutConfig(max_steps=20, execution=ExecutionConfig(mode="real_time"))
    runner = RolloutRunner(WORLD, config, Hanging(), slots=2)
    late = results(runner.run(items([FIRST, FIRST + 1])))
    assert [one.failure for one in late] == [Failure.POLICY_ERROR] * 2
    assert late[0].detail == "PolicyTimeoutError: no answer within 3 s"
    assert asked == [2]
    runner.change_policy(Rigid())
    with pytest.raises(UserError, match="rigid cannot go on from a chunk in execution"):
        runner.run(items([FIRST]))
    runner.close()


@pytest.mark.sim
def test_a_simulator_that_raises_fails_its_episode_and_is_replaced() -> None:
    runner = RolloutRunner(WORLD, RolloutConfig(max_steps=16), RandomPolicy(), slots=2)
    bad, good = results(runner.run(items([-1, FIRST])))  # no scene has a seed below 0
    assert (bad.failure, bad.error, bad.steps, bad.closest_m) == (Failure.SIMULATOR_ERROR, True, 0, None)
    assert "Error: " in bad.detail
    assert not good.error
    again = results(runner.run(items([FIRST, FIRST + 1])))
    assert again[0] == good
    assert not again[1].error
    runner.close()


def test_the_reason_for_running_out_of_time_follows_from_where_things_were() -> None:
    def moved(object_m: Sequence[tuple[float, float, float]], tool_m: Sequence[tuple[float, float, float]]) -> Failure:
        positions = np.zeros((len(object_m), 9), np.float32)
        positions[:, :3], positions[:, 3:6] = tool_m, object_m
        return why_time_was_up(positions, 0.06)

    away, near = [(0.2, 0.0, 0.0)] * 3, [(0.2, 0.0, 0.0), (0.03, 0.0, 0.02), (0.2, 0.0, 0.0)]
    still = [(0.0, 0.0, 0.02)] * 3
    assert moved(still, away) is Failure.NOT_REACHED
    assert moved(still, near) is Failure.NOT_MOVED
    assert moved([*still[:2], (0.02, 0.0, 0.02)], away) is Failure.NOT_AT_GOAL
    lifted, along = (0.0, 0.0, 0.05), [(0.2, 0.0, 0.0), (0.0, 0.0, 0.05), (0.0, 0.0, 0.2)]
    assert moved([still[0], lifted, still[0]], along) is Failure.DROPPED
    assert moved([still[0], lifted, lifted], along) is Failure.NOT_AT_GOAL  # up at the end
    assert moved([still[0], lifted, still[0]], away) is Failure.NOT_AT_GOAL  # it flew, nobody had it
    assert not was_dropped(np.zeros((3, 9), np.float32), 0.06)
    positions = np.zeros((3, 9), np.float32)
    positions[:, 3] = [0.5, 0.5, 0.52]  # the object moves by 2 cm, 50 cm from the tool
    assert distances(positions) == pytest.approx((0.5, 0.02))
