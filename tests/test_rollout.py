"""Rollouts in the real simulator: when episodes end and why, what is drawn, and that company does not matter."""

import asyncio
import functools
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from small_policy import SpoiltPolicy, write_small_policy

from blm.actors.sim.demonstration import DemonstrationConfig
from blm.actors.sim.env import CellEnv
from blm.actors.sim.outcome import EpisodeResult, Failure, RolloutConfig, distances, why_time_was_up
from blm.actors.sim.policies import RandomPolicy, chunk_seed
from blm.actors.sim.rollout import RolloutRunner
from blm.actors.sim.tasks import TASKS
from blm.actors.sim.world import WorldConfig, parse_cell, seed_range
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation

PUSH, PICK = parse_cell("panda/PushCube"), parse_cell("panda/PickCube")
FIRST = seed_range("evaluate").start


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


class SeeingPolicy(RandomPolicy):
    """Random actions that keep the pictures they were shown."""

    name = "seeing"
    sees = True

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[list[np.ndarray]] = []

    def infer_batch(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[ActionChunk]:
        self.looks.append([observation.images["front"] for observation in observations])
        return super().infer_batch(observations, seeds)


@pytest.fixture(scope="module")
def runner() -> RolloutRunner:
    return RolloutRunner(WorldConfig(cells=("panda/PushCube",)), RolloutConfig())


def lasting(results: Sequence[EpisodeResult]) -> list[tuple[object, ...]]:
    """What of a result is the same however fast the machine is."""
    return [
        (r.cell, r.seed, r.policy, r.instruction, r.success, r.failure, r.steps, r.chunks, r.closest_m, r.moved_m)
        for r in results
    ]


@pytest.mark.sim
def test_a_planners_actions_succeed_and_end_at_the_first_success(runner: RolloutRunner) -> None:
    policy = ReplayPolicy(range(FIRST, FIRST + 4))
    seeds = list(policy.first_success)
    assert len(seeds) >= 3
    finished = runner.run(PUSH, seeds, policy)
    assert [one.result.success for one in finished] == [True] * len(seeds)
    assert [one.result.steps for one in finished] == list(policy.first_success.values())
    assert all(one.result.failure is None and not one.result.error for one in finished)
    for one in finished:
        assert one.result.closest_m is not None
        assert one.result.closest_m < 0.06
        assert one.episode is not None
        assert one.episode.success
        assert len(one.episode.actions) == one.result.steps


@pytest.mark.sim
def test_random_actions_run_out_of_time_and_say_how_far_they_came(runner: RolloutRunner) -> None:
    results = [one.result for one in runner.run(PUSH, range(FIRST, FIRST + 6), RandomPolicy())]
    limit = TASKS["PushCube"].max_steps
    for result in results:
        assert result.success or result.steps == limit
        assert result.success == (result.failure is None)
        assert not result.error
        assert result.chunks == -(-result.steps // 8)
    assert {r.failure for r in results} <= {None, Failure.NOT_REACHED, Failure.NOT_MOVED, Failure.NOT_AT_GOAL}


@pytest.mark.sim
def test_pictures_are_drawn_once_a_chunk_and_only_for_a_policy_that_sees() -> None:
    runner = RolloutRunner(WorldConfig(cells=("panda/PushCube",)), RolloutConfig(max_steps=20, record=False))
    policy = SeeingPolicy()
    finished = runner.run(PUSH, [FIRST, FIRST + 1], policy)
    assert [len(look) for look in policy.looks] == [2, 2, 2]  # at steps 0, 8 and 16
    assert policy.looks[0][0].shape == (112, 112, 3)
    assert not np.array_equal(policy.looks[0][0], policy.looks[1][0])
    assert all(one.result.steps == 20 and one.episode is None for one in finished)
    assert all(one.result.render_s > 0 for one in finished)
    blind = runner.run(PUSH, [FIRST, FIRST + 1], RandomPolicy())
    assert all(one.result.render_s < 0.002 for one in blind)
    assert lasting([one.result for one in blind])[0][3:] == lasting([one.result for one in finished])[0][3:]
    runner.close()


@pytest.mark.sim
def test_an_episode_is_the_same_in_any_company_and_any_simulator(runner: RolloutRunner) -> None:
    policy = RandomPolicy(0.3)
    together = [one.result for one in runner.run(PUSH, range(FIRST, FIRST + 4), policy)]
    backwards = [one.result for one in runner.run(PUSH, range(FIRST + 3, FIRST - 1, -1), policy)]
    alone = [runner.run(PUSH, [seed], policy)[0].result for seed in range(FIRST, FIRST + 4)]
    assert lasting(together) == lasting(alone) == lasting(backwards[::-1])


@pytest.mark.sim
@pytest.mark.parametrize(
    ("how", "failure", "detail"),
    [
        ("nan", Failure.BAD_ACTION, "8 values that are not finite"),
        ("narrow", Failure.BAD_ACTION, r"\[16, 7\]"),
        ("short", Failure.BAD_ACTION, r"\[3, 8\]"),
        ("rate", Failure.BAD_ACTION, "50 Hz"),
        ("error", Failure.POLICY_ERROR, "cannot look at this"),
    ],
)
def test_a_wrong_answer_fails_its_episode_with_the_reason_and_no_other(
    runner: RolloutRunner, how: str, failure: Failure, detail: str
) -> None:
    policy = SpoiltPolicy(how, TASKS["PushCube"].instructions[FIRST % 3])
    finished = runner.run(PUSH, [FIRST, FIRST + 1], policy)
    bad, good = (one.result for one in finished)
    assert (bad.failure, bad.error, bad.success, bad.steps) == (failure, True, False, 0)
    assert re.search(detail, bad.detail)
    assert finished[0].episode is None
    assert not good.error
    assert good.steps > 8


@pytest.mark.sim
def test_a_simulator_that_raises_fails_its_episode_and_is_replaced() -> None:
    runner = RolloutRunner(WorldConfig(cells=("panda/PushCube",)), RolloutConfig(max_steps=16))
    bad, good = (one.result for one in runner.run(PUSH, [-1, FIRST], RandomPolicy()))  # no scene has a seed below 0
    assert (bad.failure, bad.error, bad.steps, bad.closest_m) == (Failure.SIMULATOR_ERROR, True, 0, None)
    assert "Error: " in bad.detail
    assert not good.error
    again = [one.result for one in runner.run(PUSH, [FIRST, FIRST + 1], RandomPolicy())]
    assert lasting(again)[0] == lasting([good])[0]
    assert not again[1].error
    runner.close()


@pytest.mark.sim
def test_held_out_words_are_used_when_asked_for() -> None:
    runner = RolloutRunner(WorldConfig(cells=("panda/PickCube",)), RolloutConfig(max_steps=4, held_out=True))
    results = [one.result for one in runner.run(PICK, range(FIRST, FIRST + 2), RandomPolicy())]
    assert {result.instruction for result in results} == set(TASKS["PickCube"].held_out)
    runner.close()


def test_chunk_seeds_differ_by_cell_scene_and_look_and_never_change() -> None:
    seeds = {chunk_seed(cell, seed, look) for cell in ("a/T", "b/T") for seed in range(20) for look in range(20)}
    assert len(seeds) == 2 * 20 * 20
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert chunk_seed("panda/PushCube", 1_000_000, 0) == chunk_seed("panda/PushCube", 1_000_000, 0)


def test_the_reason_for_running_out_of_time_follows_from_distances() -> None:
    positions = np.zeros((3, 9), np.float32)
    positions[:, 3] = [0.5, 0.5, 0.52]  # the object moves by 2 cm, 50 cm from the tool
    assert distances(positions) == pytest.approx((0.5, 0.02))
    assert why_time_was_up(0.5, 0.02, 0.06) is Failure.NOT_AT_GOAL
    assert why_time_was_up(0.03, 0.002, 0.06) is Failure.NOT_MOVED
    assert why_time_was_up(0.2, 0.002, 0.06) is Failure.NOT_REACHED


# ------------------------------------------------------------------------------------------------ the policy's actor


class SlowPolicy(RandomPolicy):
    """Takes its time, and refuses one instruction."""

    def infer_batch(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[ActionChunk]:
        time.sleep(0.02)
        if any(observation.instruction == "refuse" for observation in observations):
            raise UserError("refused")
        return super().infer_batch(observations, seeds)


def ask(merge: int, requests: Sequence[tuple[str, Sequence[int]]]) -> tuple[list[object], int]:
    """Answers to requests made at once, each of an instruction and seeds, and how many passes they took."""
    from blm.actors.policy import PolicyServer

    async def all_at_once() -> tuple[list[object], int]:
        server = PolicyServer(SlowPolicy, merge)
        assert await server.ready()
        state = np.array([0.0] * 7 + [1.0], np.float32)
        answers = await asyncio.gather(
            *(
                server.infer_batch(
                    [Observation(images={}, state=state, instruction=text, embodiment="panda")] * len(seeds), seeds
                )
                for text, seeds in requests
            ),
            return_exceptions=True,
        )
        return list(answers), server.passes

    return asyncio.run(all_at_once())


def test_requests_are_answered_one_by_one_unless_they_may_be_merged() -> None:
    requests = [("go", [1, 2]), ("go", [3]), ("go", [4, 5, 6]), ("go", [7])]
    single, passes = ask(0, requests)
    assert passes == 4
    merged, fewer = ask(4, requests)
    assert fewer < 4
    for (_, seeds), one, other in zip(requests, single, merged, strict=True):
        assert [chunk.actions.tolist() for chunk in one] == [chunk.actions.tolist() for chunk in other]
        assert len(one) == len(seeds)


def test_a_refused_request_does_not_spoil_those_merged_with_it() -> None:
    answers, _ = ask(100, [("go", [1]), ("refuse", [2]), ("go", [3, 4])])
    assert isinstance(answers[1], UserError)
    assert [len(answers[0]), len(answers[2])] == [1, 2]


@pytest.mark.ray
@pytest.mark.sim
def test_outcomes_do_not_depend_on_the_number_of_actors(ray_cluster: None, tiny_mllm: Path, tmp_path: Path) -> None:
    import ray

    from blm.actors.policy import start_policy
    from blm.actors.pool import WorkPool
    from blm.actors.rollout import RolloutItem, RolloutWorker, episode_file
    from blm.actors.sim.episode import read_episodes
    from blm.model.predictor import BlmPolicy

    folder = write_small_policy(tmp_path / "model", tiny_mllm)
    policy = start_policy("blm", functools.partial(BlmPolicy.load, folder))
    world, config = WorldConfig(cells=("panda/PushCube",)), RolloutConfig(max_steps=24)
    actor = ray.remote(RolloutWorker).options(num_cpus=1)
    outcomes = []
    for actors in (1, 2):
        keep = tmp_path / f"kept-{actors}"
        results: list[EpisodeResult] = []
        with WorkPool(lambda: actor.remote(world, config, {"blm": policy}), actors=actors) as pool:
            for first in range(FIRST, FIRST + 12, 3):
                pool.submit(RolloutItem(cell=PUSH, seeds=tuple(range(first, first + 3)), policy="blm", keep=keep))
            while pool.pending:
                results += pool.next().result
        results.sort(key=lambda result: result.seed)
        assert [result.detail for result in results] == [""] * 12
        kept = [read_episodes(episode_file(keep, result.seed))[0] for result in results]
        outcomes.append((lasting(results), [e.actions.tobytes() for e in kept], [e.states.tobytes() for e in kept]))
    policy.stop()
    assert len(outcomes[0][0]) == 12
    assert len(set(outcomes[0][1])) == 12
    assert outcomes[0] == outcomes[1]


@pytest.mark.ray
def test_a_model_that_cannot_be_loaded_says_so_and_a_policys_exception_is_a_policy_error(
    ray_cluster: None, tiny_mllm: Path, tmp_path: Path
) -> None:
    from blm.actors.policy import start_policy
    from blm.actors.sim.policies import PolicyError
    from blm.model.predictor import BlmPolicy

    with pytest.raises(UserError, match="does not exist"):
        start_policy("blm", functools.partial(BlmPolicy.load, tmp_path / "nothing"))
    folder = write_small_policy(tmp_path / "model", tiny_mllm)
    policy = start_policy("blm", functools.partial(BlmPolicy.load, folder))
    state = np.array([0.0] * 7 + [1.0], np.float32)
    with pytest.raises(PolicyError, match="UserError: observation lacks camera 'front'"):
        policy.infer_batch([Observation(images={}, state=state, instruction="go", embodiment="panda")], [1])
    policy.stop()
