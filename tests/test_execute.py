"""Demonstrations in the simulator: they work, they repeat, and they can be replayed."""

import numpy as np
import pytest

from blm.actors.sim.demonstration import Demonstration, DemonstrationConfig
from blm.actors.sim.disturbance import disturb
from blm.actors.sim.env import CellEnv
from blm.actors.sim.execute import Replayed, demonstrate, replay
from blm.actors.sim.failures import FailureReason
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.scenes import place
from blm.actors.sim.situations import situation
from blm.actors.sim.world import parse_cell

STEPS = {
    "panda/PushCube": (22, 40),
    "panda/PickCube": (26, 55),
    "panda/PullCube": (24, 45),
    "panda/StackCube": (44, 70),
    "panda/PlaceSphere": (44, 65),
    "panda/LiftPegUpright": (55, 80),
}
"""Shortest and longest demonstration to be expected from a reset."""
CELLS = tuple(STEPS)
SEEDS = range(10)
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
    low, high = STEPS[name]
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
    for seed in (9, 3):
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
    assert set(one.failures) == {FailureReason.OBJECT_LOST}


class Tampered(CellEnv):
    """The real simulator, with something done to it before chosen control steps."""

    def __init__(self, name: str, tamper: dict[int, str]) -> None:
        super().__init__(parse_cell(name))
        self.tamper, self.steps = tamper, 0

    def step(self, action: np.ndarray) -> bool:  # type: ignore[override]
        self.steps += 1
        what = self.tamper.get(self.steps)
        if what == "throw":
            place(self._scene.task_object, [2.0, 0.0, 0.02])
        return super().step(np.append(action[:-1], 1.0) if what == "open" else action)


def _tampered(name: str, tamper: dict[int, str], seed: int = 1) -> Demonstration:
    env, planner = Tampered(name, tamper), CellPlanner(parse_cell(name))
    one = demonstrate(env, planner, seed, PLAIN)
    assert one.episode is not None, one.failures
    assert replay(CellEnv(parse_cell(name)), one.episode) == Replayed(success=True, exact=True)
    return one


def test_what_slips_is_noticed_at_once_and_picked_up_again() -> None:
    one = _tampered("panda/PickCube", dict.fromkeys(range(24, 27), "open"))
    assert one.failures == (FailureReason.DROPPED,)
    assert one.episode is not None
    assert not one.first_plan
    assert one.episode.metrics["adjustments"] == 1
    assert one.episode.metrics["rollbacks"] == 0
    assert len(one.episode.actions) < 60, "the failed attempt is not part of the episode"


def test_a_missed_grasp_is_tried_again() -> None:
    one = _tampered("panda/StackCube", dict.fromkeys(range(10, 24), "open"))
    assert one.failures[0] is FailureReason.GRASP_MISSED
    assert one.episode is not None
    assert [name for name, _ in one.episode.metrics["phases"]] == ["reach", "close", "place", "open", "retreat"]


def test_what_cannot_be_mended_from_where_it_is_goes_back_to_the_last_good_state() -> None:
    one = _tampered("panda/PickCube", {26: "throw"})
    assert one.failures == (FailureReason.DROPPED, FailureReason.OBJECT_LOST)
    assert one.episode is not None
    assert one.episode.metrics["rollbacks"] == 1
    assert one.episode.object_positions[:, 3].max() < 0.5, "the object never left"


@pytest.mark.parametrize("name", CELLS)
def test_disturbed_episodes_replay_bit_for_bit_from_seed_and_first_state(name: str) -> None:
    env, planner = _make(name)
    episode = demonstrate(env, planner, 5, DISTURBED).episode
    assert episode is not None
    assert replay(CellEnv(parse_cell(name)), episode) == Replayed(success=True, exact=True)


def test_key_poses_are_perturbed_on_the_way_and_the_task_is_still_done() -> None:
    cell = parse_cell("panda/PickCube")
    env, plain = CellEnv(cell), CellPlanner(cell)
    varied = CellPlanner(cell, waypoint_noise_m=0.02)
    before, after = demonstrate(env, plain, 3, PLAIN).episode, demonstrate(env, varied, 3, PLAIN).episode
    assert before is not None
    assert after is not None
    steps = min(len(before.actions), len(after.actions), 15)
    apart_m = np.linalg.norm(before.object_positions[:steps, :3] - after.object_positions[:steps, :3], axis=1)
    assert 0.002 < apart_m.max() < 0.06


def test_metrics_tell_how_the_demonstration_came_about(plain: dict[str, list[Demonstration]]) -> None:
    for made in plain.values():
        for one in made:
            assert one.episode is not None
            metrics = one.episode.metrics
            assert metrics["attempts"] == 1
            assert metrics["adjustments"] == metrics["rollbacks"] == 0
            assert 0 < metrics["jerk_rad_s3"] < 2000
            assert 0.05 < metrics["tool_path_m"] < 3
            firsts = [first for _, first in metrics["phases"]]
            assert firsts[0] == 0
            assert firsts == sorted(firsts)
            assert firsts[-1] < len(one.episode.actions)


def test_a_situation_reads_what_the_simulator_knows() -> None:
    env, _ = _make("panda/PickCube")
    env.reset(2)
    now = situation(env)
    np.testing.assert_allclose(now.tool[:3, 3], env.object_positions()[:3], atol=1e-6)
    assert now.gripper == pytest.approx(1.0)
    assert not now.holding
    assert now.gripper_stroke_m == env.embodiment.gripper_stroke_m
    np.testing.assert_allclose(now.object_rotation @ now.object_rotation.T, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("task", ["StackCube", "PlaceSphere", "LiftPegUpright"])
def test_what_is_put_down_is_let_go_and_left_alone(plain: dict[str, list[Demonstration]], task: str) -> None:
    for one in plain[f"panda/{task}"]:
        assert one.episode is not None
        assert one.episode.proprio[-1, -1] > 0.9, "the gripper is open"
        positions = one.episode.object_positions
        assert np.linalg.norm(positions[-1, :3] - positions[-1, 3:6]) > 0.05, "the hand has gone back"
        assert np.abs(positions[-1, 3:6] - positions[-2, 3:6]).max() < 1e-4, "the object rests"


def test_a_peg_that_cannot_be_stood_as_it_is_held_is_laid_down_first() -> None:
    env, planner = _make("panda/LiftPegUpright")
    plan = next(one for one in (demonstrate(env, planner, seed, DISTURBED) for seed in (10, 69)) if one.episode)
    assert plan.episode is not None
    assert plan.episode.success
