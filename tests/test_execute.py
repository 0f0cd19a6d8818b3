"""Demonstrations in the simulator: they work, they repeat, and they can be replayed."""

import numpy as np
import pytest

from blm.actors.sim.demonstration import Demonstration, DemonstrationConfig
from blm.actors.sim.env import CellEnv
from blm.actors.sim.execute import demonstrate, disturb, situation
from blm.actors.sim.failures import FailureReason
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.world import parse_cell

CELLS = ("panda/PushCube", "panda/PickCube")
SEEDS = range(12)
PLAIN = DemonstrationConfig(disturbed_share=0.0)
DISTURBED = DemonstrationConfig(disturbed_share=1.0)


def _make(name: str) -> tuple[CellEnv, CellPlanner]:
    cell = parse_cell(name)
    return CellEnv(cell), CellPlanner(cell)


@pytest.fixture(scope="module")
def plain() -> dict[str, list[Demonstration]]:
    made = {}
    for name in CELLS:
        env, planner = _make(name)
        made[name] = [demonstrate(env, planner, seed, PLAIN) for seed in SEEDS]
    return made


@pytest.mark.parametrize("name", CELLS)
def test_the_first_plan_does_the_task(plain: dict[str, list[Demonstration]], name: str) -> None:
    assert all(one.first_plan and one.episode is not None for one in plain[name])
    steps = [len(one.episode.actions) for one in plain[name] if one.episode]
    low, high = {"panda/PushCube": (22, 40), "panda/PickCube": (26, 55)}[name]
    assert low <= min(steps)
    assert max(steps) <= high


@pytest.mark.parametrize("name", CELLS)
def test_replaying_the_actions_gives_the_recorded_states(plain: dict[str, list[Demonstration]], name: str) -> None:
    env = CellEnv(parse_cell(name))
    for one in plain[name][:3]:
        episode = one.episode
        assert episode is not None
        env.reset(one.seed)
        np.testing.assert_array_equal(env.state(), episode.states[0])
        done = False
        for t, action in enumerate(episode.actions):
            done = env.step(action)
            np.testing.assert_array_equal(env.state(), episode.states[t + 1])
            np.testing.assert_array_equal(env.proprio(), episode.proprio[t + 1])
        assert done
        assert episode.success


@pytest.mark.parametrize("name", CELLS)
def test_an_episode_ends_with_the_arm_at_rest_on_a_held_target(
    plain: dict[str, list[Demonstration]], name: str
) -> None:
    for one in plain[name]:
        assert one.episode is not None
        last = one.episode.actions[-PLAIN.hold_steps :]
        np.testing.assert_array_equal(last, np.repeat(last[:1], len(last), axis=0))
        drift = np.abs(one.episode.proprio[-1, :-1] - one.episode.proprio[-2, :-1]).max()
        assert drift < 0.01
        assert one.episode.metrics["first_success_step"] <= len(one.episode.actions)


@pytest.mark.parametrize("name", CELLS)
def test_the_outcome_does_not_depend_on_what_ran_before(plain: dict[str, list[Demonstration]], name: str) -> None:
    env, planner = _make(name)
    for seed in (9, 3, 6):
        one, before = demonstrate(env, planner, seed, PLAIN), plain[name][seed]
        assert one.episode is not None
        assert before.episode is not None
        np.testing.assert_array_equal(one.episode.states, before.episode.states)
        np.testing.assert_array_equal(one.episode.actions, before.episode.actions)


@pytest.mark.parametrize("name", CELLS)
def test_disturbed_episodes_start_off_course_and_succeed(plain: dict[str, list[Demonstration]], name: str) -> None:
    env, planner = _make(name)
    moved_m = []
    for seed in SEEDS:
        one = demonstrate(env, planner, seed, DISTURBED)
        assert one.episode is not None, f"seed {seed}: {one.failures}"
        assert one.episode.metrics["disturbed"]
        reset = plain[name][seed].episode
        assert reset is not None
        moved_m.append(np.linalg.norm(one.episode.object_positions[0, :3] - reset.object_positions[0, :3]))
    assert np.median(moved_m) > 0.05


def test_the_steps_of_a_disturbance_are_not_recorded() -> None:
    env, planner = _make("panda/PickCube")
    env.reset(4)
    assert disturb(env, planner, 4, np.random.default_rng(0))
    after = env.state()
    env.reset(4)
    assert disturb(env, planner, 4, np.random.default_rng(0))
    np.testing.assert_array_equal(env.state(), after)
    one = demonstrate(env, planner, 4, DISTURBED)
    assert one.episode is not None
    jump = np.abs(one.episode.actions[0, :-1] - one.episode.proprio[0, :-1]).max()
    assert jump < 0.12, "the first recorded action starts from where the arm is"


def test_a_lost_object_ends_the_attempts_at_once() -> None:
    env, planner = _make("panda/PushCube")

    class Thrown(CellEnv):
        """The real simulator, but every scene starts with the cube far off the table."""

        def reset(self, seed: int, *, rebuild: bool = True) -> None:
            super().reset(seed, rebuild=rebuild)
            state = self.state()
            state[0] += 2.0
            self.set_state(state)

    env = Thrown(parse_cell("panda/PushCube"))
    one = demonstrate(env, planner, 0, PLAIN)
    assert one.episode is None
    assert not one.first_plan
    assert one.failures == (FailureReason.OBJECT_LOST,)


def test_an_attempt_that_fails_is_planned_again_from_what_is_true_then() -> None:
    class Slippery(CellEnv):
        """The real simulator, but the gripper opens once, half way up."""

        steps = 0

        def step(self, action: np.ndarray) -> bool:  # type: ignore[override]
            self.steps += 1
            return super().step(np.append(action[:-1], 1.0) if 24 <= self.steps <= 30 else action)

    env, planner = Slippery(parse_cell("panda/PickCube")), CellPlanner(parse_cell("panda/PickCube"))
    one = demonstrate(env, planner, 1, PLAIN)
    assert one.failures[:1] == (FailureReason.EXECUTION_FAILED,)
    assert one.episode is not None
    assert one.episode.metrics["attempts"] >= 2
    assert not one.first_plan
    assert len(one.episode.actions) < 60, "the failed attempt is not part of the episode"


def test_a_situation_reads_what_the_simulator_knows() -> None:
    env, _ = _make("panda/PickCube")
    env.reset(2)
    now = situation(env)
    np.testing.assert_allclose(now.tool[:3, 3], env.object_positions()[:3], atol=1e-6)
    assert now.gripper == pytest.approx(1.0)
    assert not now.holding
