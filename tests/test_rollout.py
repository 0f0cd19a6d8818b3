"""Rollouts in the real simulator: when episodes end and why, what is drawn, and that company does not matter."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from small_rollouts import FIRST, PICK, PUSH, WORLD, items, results, run

from blm.actors.sim.demonstration import DemonstrationConfig
from blm.actors.sim.env import CellEnv
from blm.actors.sim.execution_options import ExecutionConfig
from blm.actors.sim.motion import roughness
from blm.actors.sim.outcome import Failure, RolloutConfig
from blm.actors.sim.policies import RandomPolicy, chunk_seed
from blm.actors.sim.runner import RolloutRunner
from blm.actors.sim.tasks import TASKS
from blm.actors.sim.world import Cell
from blm.model.types import ActionChunk, Observation, Prefixes


class ReplayPolicy:
    """Gives out a planner's demonstrations, found again by the noise seeds of their chunks."""

    name = "replay"
    sees = False

    def __init__(self, seeds: Sequence[int]) -> None:
        from blm.actors.sim.execute import demonstrate
        from blm.actors.sim.planner import CellPlanner

        env, planner = CellEnv(PUSH), CellPlanner(PUSH)
        plain = DemonstrationConfig(retries=0, disturbed_share=0.0)
        self.first_success: dict[int, int] = {}
        self._chunks: dict[int, np.ndarray] = {}
        for seed in seeds:
            episode = demonstrate(env, planner, seed, plain).episode
            if episode is None:
                continue
            self.first_success[seed] = episode.metrics["first_success_step"]
            actions = np.concatenate([episode.actions, np.repeat(episode.actions[-1:], 16, axis=0)])
            for chunk, first in enumerate(range(0, len(episode.actions), 8)):
                self._chunks[chunk_seed(PUSH.name, seed, chunk)] = actions[first : first + 16]
        env.close()

    def infer_batch(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[ActionChunk]:
        return [ActionChunk(actions=self._chunks[seed], control_hz=20) for seed in seeds]


class WatchedPolicy(RandomPolicy):
    """Random actions of a policy that sees, which keeps what it was asked."""

    name = "watched"
    sees = True

    def __init__(self) -> None:
        super().__init__(0.3)
        self.looks: list[list[Observation]] = []
        self.prefixes: list[Prefixes | None] = []

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        self.looks.append(list(observations))
        self.prefixes.append(prefixes)
        return super().infer_batch(observations, seeds)


@pytest.fixture(scope="module")
def kept_runner() -> RolloutRunner:
    return RolloutRunner(WORLD, RolloutConfig(), RandomPolicy(), slots=4)


@pytest.mark.sim
def test_a_planners_actions_succeed_and_end_at_the_first_success(kept_runner: RolloutRunner, tmp_path: Path) -> None:
    policy = ReplayPolicy(range(FIRST, FIRST + 4))
    seeds = list(policy.first_success)
    assert len(seeds) >= 3
    finished = run(kept_runner, policy, items(seeds, keep=tmp_path))
    assert [one.result.success for one in finished] == [True] * len(seeds)
    assert [one.result.steps for one in finished] == list(policy.first_success.values())
    for one in finished:
        assert one.result.failure is None
        assert not one.result.error
        assert one.result.time_to_success_s == one.result.steps / 20
        assert one.result.closest_m is not None
        assert one.result.closest_m < 0.06
        assert one.result.backend == "cpu, lite"
        assert one.episode is not None
        assert one.episode.success
        assert len(one.episode.actions) == one.result.steps
        assert one.result.jerk_rad_s3 == pytest.approx(roughness(one.episode.proprio[:, :-1], 20), abs=0.06)


@pytest.mark.sim
def test_random_actions_run_out_of_time_and_say_how_far_they_came(kept_runner: RolloutRunner) -> None:
    limit = TASKS["PushCube"].max_steps
    finished = run(kept_runner, RandomPolicy(), items(range(FIRST, FIRST + 6)))
    for result in results(finished):
        assert result.success or result.steps == limit
        assert result.success == (result.failure is None) == (result.time_to_success_s is not None)
        assert not result.error
        assert result.chunks == -(-result.steps // 8)
    reasons = {Failure.NOT_REACHED, Failure.NOT_MOVED, Failure.DROPPED, Failure.NOT_AT_GOAL}
    assert {result.failure for result in results(finished)} <= reasons | {None}
    assert all(one.timing.physics_s > 0 and one.timing.wall_s > one.timing.physics_s for one in finished)


@pytest.mark.sim
def test_pictures_are_drawn_once_a_look_and_only_for_a_policy_that_sees() -> None:
    runner = RolloutRunner(WORLD, RolloutConfig(max_steps=20), WatchedPolicy(), slots=2)
    policy = runner.policy
    assert isinstance(policy, WatchedPolicy)
    finished = runner.run(items([FIRST, FIRST + 1]))
    assert [len(look) for look in policy.looks] == [2, 2, 2]  # at steps 0, 8 and 16
    first, second = (look[0].images["front"] for look in policy.looks[:2])
    assert first.shape == (112, 112, 3)
    assert not np.array_equal(first, second)
    assert all(one.result.steps == 20 and one.episode is None for one in finished)
    assert all(one.timing.render_s > 0 for one in finished)
    blind = run(runner, RandomPolicy(0.3), items([FIRST, FIRST + 1]))
    assert all(one.timing.render_s < 0.002 for one in blind)
    for one, other in zip(results(blind), results(finished), strict=True):  # what is drawn changes nothing
        assert (one.steps, one.closest_m, one.moved_m, one.jerk_rad_s3) == (
            other.steps,
            other.closest_m,
            other.moved_m,
            other.jerk_rad_s3,
        )
    runner.close()


@pytest.mark.sim
def test_an_episode_is_the_same_in_any_company_and_any_simulator(kept_runner: RolloutRunner) -> None:
    policy = RandomPolicy(0.3)
    wanted = items(range(FIRST, FIRST + 3)) + items(range(FIRST, FIRST + 2), PICK)
    together = results(run(kept_runner, policy, wanted))
    backwards = results(run(kept_runner, policy, wanted[::-1]))
    single = RolloutRunner(WORLD, RolloutConfig(), policy, slots=1)
    assert together == results(single.run(wanted)) == backwards[::-1]
    assert [(one.cell, one.seed) for one in together] == [(one.cell.name, one.seed) for one in wanted]
    single.close()


@pytest.mark.sim
def test_a_slot_is_taken_again_in_the_next_round_and_keeps_its_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Counted(CellEnv):
        def __init__(self, cell: Cell, **options: object) -> None:
            made.append(cell.name)
            super().__init__(cell, **options)

    monkeypatch.setattr("blm.actors.sim.runner.CellEnv", Counted)
    looks: list[int] = []

    class Nan(RandomPolicy):
        def infer_batch(
            self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
        ) -> list[ActionChunk]:
            looks.append(len(seeds))
            chunks = super().infer_batch(observations, seeds)
            chunks[0].actions[2:4] *= np.nan if len(looks) == 1 else 1  # the first episode's only look
            return chunks

    runner = RolloutRunner(WORLD, RolloutConfig(max_steps=16), Nan(), slots=2)
    assert (runner.free, runner.running) == (2, 0)
    bad, *good = results(runner.run(items(range(FIRST, FIRST + 3)) + items([FIRST], PICK)))
    assert (bad.failure, bad.steps) == (Failure.BAD_ACTION, 0)
    assert [one.steps for one in good] == [16] * 3
    assert looks == [2, 2, 2, 1]  # nobody waits for anybody
    assert made == ["panda/PushCube", "panda/PushCube", "panda/PickCube"]
    runner.add(items([FIRST])[0])  # goes where its cell is simulated already
    assert runner.advance() == []
    assert (runner.free, runner.running) == (1, 1)
    runner.advance()
    assert (runner.free, len(made)) == (2, 3)
    runner.close()


@pytest.mark.sim
def test_under_latency_the_robot_does_what_the_policy_was_told_it_would(tmp_path: Path) -> None:
    execution = ExecutionConfig(mode="real_time", execute_steps=5, latency_steps=3)
    policy = WatchedPolicy()
    runner = RolloutRunner(WORLD, RolloutConfig(max_steps=20, execution=execution), policy, slots=2)
    (finished,) = runner.run(items([FIRST], keep=tmp_path))
    episode = finished.episode
    assert episode is not None
    assert np.array_equal(episode.actions[:3], np.repeat(episode.proprio[:1], 3, axis=0))  # at rest until it knows
    assert finished.result.chunks == 4
    for look, (observations, prefixes) in enumerate(zip(policy.looks, policy.prefixes, strict=True)):
        step = 0 if look == 0 else 3 + 5 * look
        assert np.array_equal(observations[0].state, episode.proprio[step])
        if look == 0:
            assert prefixes is None
            continue
        assert prefixes is not None
        (prefix,) = prefixes
        assert prefix is not None
        assert prefix.frozen == 3
        done = episode.actions[step : step + 3]  # time is up two steps after the last look
        assert np.array_equal(prefix.actions[: len(done)], done)
    runner.close()


@pytest.mark.sim
def test_held_out_words_are_used_when_asked_for() -> None:
    runner = RolloutRunner(WORLD, RolloutConfig(max_steps=4, held_out=True), RandomPolicy(), slots=2)
    finished = runner.run(items([FIRST, FIRST + 1], PICK))
    assert {result.instruction for result in results(finished)} == set(TASKS["PickCube"].held_out)
    runner.close()


def test_chunk_seeds_differ_by_cell_scene_and_look_and_never_change() -> None:
    seeds = {chunk_seed(cell, seed, look) for cell in ("a/T", "b/T") for seed in range(20) for look in range(20)}
    assert len(seeds) == 2 * 20 * 20
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert chunk_seed("panda/PushCube", 1_000_000, 0) == 4_651_899_750_235_966_186
