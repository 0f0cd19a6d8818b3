"""`blm bench rollout`: what its sides do, and its arithmetic. How fast they are is nobody's promise here."""

from collections.abc import Sequence

import numpy as np
import pytest

from blm.actors.sim.policies import PolicyError
from blm.model.types import ActionChunk, Observation, Prefixes
from blm.pipelines.benchmarks.rollout import CASES, STEPS, _rates
from blm.pipelines.benchmarks.rollout_worker import CASES as MADE
from blm.pipelines.benchmarks.rollout_worker import (
    CELL,
    EXECUTE_STEPS,
    SWAY_RAD,
    Swaying,
    measure,
    ours,
    stock,
    swaying,
)


def test_both_halves_know_the_same_cases() -> None:
    assert tuple(MADE) == CASES
    assert CELL.task_data.max_steps == STEPS


def test_the_arm_sways_about_its_rest_posture_without_a_jump() -> None:
    chunk = swaying()
    assert chunk.shape == (EXECUTE_STEPS, CELL.embodiment.action_dim)
    np.testing.assert_allclose(chunk.mean(axis=0)[:-1], CELL.embodiment.rest_rad, atol=1e-6)
    jumps = np.abs(np.diff(np.concatenate([chunk, chunk[:1]]), axis=0))
    assert 0 < jumps.max() < SWAY_RAD


def test_our_side_runs_to_the_time_limit_and_tells_where_time_went() -> None:
    go_on = ours(Swaying(sees=False), ("front",), slots=2)
    steps, seconds = go_on()
    assert steps == 2 * STEPS
    assert seconds["physics"] > 10 * seconds["wait"]
    assert measure(go_on, 0.0)["steps"] == 0
    assert measure(go_on, 1e-6)["steps"] == 2 * STEPS


def test_a_policy_that_fails_is_no_fast_policy() -> None:
    class Mute(Swaying):
        def infer_batch(
            self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
        ) -> list[ActionChunk]:
            raise PolicyError("nothing to say")

    with pytest.raises(RuntimeError, match="nothing to say"):
        ours(Mute(sees=False), ("front",))()


@pytest.mark.sim
def test_their_side_runs_to_the_same_time_limit_and_on() -> None:
    go_on = stock("lite", every_step=False)
    rounds = [go_on()[0] for _ in range(-(-STEPS // EXECUTE_STEPS) + 1)]
    assert sum(rounds[:-1]) == STEPS
    assert rounds[-2:] == [STEPS % EXECUTE_STEPS, EXECUTE_STEPS]


def test_rates_are_of_all_turns_together() -> None:
    turns = [{"steps": 100, "wall_s": 1.0}, {"steps": 300, "wall_s": 3.0}]
    assert _rates(turns) == {"steps_per_s": 100.0, "episodes_per_hour": pytest.approx(3600 * 100 / STEPS)}
