"""ManiSkill's own environments driven by our policies: the same scenes, states and outcomes as ours, seed by seed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from blm.actors.sim.env import CellEnv
from blm.actors.sim.execution_options import ExecutionConfig
from blm.actors.sim.outcome import EpisodeResult, Failure, RolloutConfig, RolloutItem
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.policies import PolicyError, chunk_seed
from blm.actors.sim.runner import RolloutRunner
from blm.actors.sim.situations import situation
from blm.actors.sim.stock_rollout import StockRunner
from blm.actors.sim.world import Cell, Geometry, WorldConfig, parse_cell
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes
from blm.pipelines.evaluate import EvaluateConfig
from blm.pipelines.evaluation.maniskill import agreement, agreement_lines, roll_out_theirs
from blm.pipelines.evaluation.references import OtherPolicy
from blm.pipelines.workspace import ResourceConfig

CONFIG = RolloutConfig(execution=ExecutionConfig(execute_steps=8))
LOOKS = 25


class Recital:
    """Plays back plans, knowing scene and look by the seed of its noise; remembers what it was shown."""

    name = "recital"

    def __init__(self, cell: Cell, seeds: Sequence[int], *, sees: bool, geometry: Geometry = "lite") -> None:
        self.sees = sees
        self.shown: dict[int, Observation] = {}
        self._chunks: dict[int, npt.NDArray[np.float32]] = {}
        env, planner = CellEnv(cell, geometry=geometry), CellPlanner(cell)
        for seed in seeds:
            env.reset(seed)
            actions = planner.plan(situation(env), env.proprio()[:-1], seed=0).actions
            actions = np.concatenate([actions, np.repeat(actions[-1:], 8 * LOOKS + 8, axis=0)])
            for look in range(LOOKS):
                self._chunks[chunk_seed(cell.name, seed, look)] = actions[8 * look : 8 * look + 8]

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        self.shown |= dict(zip(seeds, observations, strict=True))
        return [ActionChunk(actions=self._chunks[seed], control_hz=20) for seed in seeds]


def _ours(cell: Cell, seeds: Sequence[int], world: WorldConfig, policy: Recital) -> list[EpisodeResult]:
    runner = RolloutRunner(world, CONFIG, policy, slots=1)
    finished = runner.run([RolloutItem(cell=cell, seed=seed) for seed in seeds])
    runner.close()
    return [one.result for one in finished]


def _theirs(runner: StockRunner, seeds: Sequence[int]) -> list[EpisodeResult]:
    results = [runner.run(seed) for seed in seeds]
    runner.close()
    return results


@pytest.mark.sim
@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        ("panda/PushCube", "lite"),
        ("panda/PickCube", "lite"),
        ("panda/StackCube", "lite"),
        ("panda/PickCube", "official"),
    ],
)
def test_outcomes_and_what_is_seen_agree_seed_by_seed(name: str, geometry: Geometry) -> None:
    cell, seeds = parse_cell(name), (1_000_000, 1_000_001)
    world = WorldConfig(cells=(name,), cameras=("front",), image_px=64, geometry=geometry)
    ours, theirs = (Recital(cell, seeds, sees=True, geometry=geometry) for _ in range(2))
    expected = _ours(cell, seeds, world, ours)
    found = _theirs(StockRunner(cell, world, CONFIG, theirs), seeds)
    assert all(result.success for result in expected), "plans succeed"
    assert [(one.success, one.steps, one.chunks) for one in found] == [
        (one.success, one.steps, one.chunks) for one in expected
    ]
    assert {one.backend for one in found} == {f"maniskill, {geometry}"}
    assert ours.shown.keys() == theirs.shown.keys()
    for key, seen in ours.shown.items():
        np.testing.assert_allclose(theirs.shown[key].state, seen.state, atol=1e-5)
        difference = np.abs(theirs.shown[key].images["front"].astype(int) - seen.images["front"])
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.002, "a state that was copied may round differently"


@pytest.mark.sim
def test_their_pictures_are_taken_by_our_cameras_where_ours_stand() -> None:
    cell, seeds = parse_cell("panda/PushCube"), (1_000_000,)
    world = WorldConfig(cells=(cell.name,), cameras=("front",), image_px=64)
    ours, theirs = Recital(cell, seeds, sees=True), Recital(cell, seeds, sees=True)
    _ours(cell, seeds, world, ours)
    once = replace(CONFIG, max_steps=8)
    found = _theirs(StockRunner(cell, world, once, theirs, pictures="maniskill"), seeds)
    assert (found[0].steps, found[0].chunks, found[0].failure) == (8, 1, Failure.NOT_REACHED)
    assert found[0].backend == "maniskill, lite, its pictures"
    first = chunk_seed(cell.name, seeds[0], 0)
    middles = []
    for policy in (ours, theirs):
        picture = policy.shown[first].images["front"].astype(int)
        assert picture.shape == (64, 64, 3)
        blue = (picture[..., 2] > 1.5 * picture[..., 0]) & (picture[..., 2] > 1.5 * picture[..., 1])
        middles.append(np.argwhere(blue).mean(axis=0))
    np.testing.assert_allclose(middles[1], middles[0], atol=1.5)  # the cube


def test_a_policy_that_cannot_answer_fails_with_its_reason() -> None:
    class Silent(Recital):
        def infer_batch(
            self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
        ) -> list[ActionChunk]:
            raise PolicyError("no answer")

    cell = parse_cell("panda/PushCube")
    runner = StockRunner(cell, WorldConfig(cells=(cell.name,)), CONFIG, Silent(cell, (), sees=False))
    (result,) = _theirs(runner, [1_000_000])
    assert (result.failure, result.error, result.detail) == (Failure.POLICY_ERROR, True, "PolicyError: no answer")


def test_robots_and_spawn_regions_that_maniskill_does_not_have_are_refused() -> None:
    cell = parse_cell("panda/PushCube")
    policy = Recital(cell, (), sees=False)
    with pytest.raises(UserError, match="made for the panda"):
        StockRunner(parse_cell("xarm6/PushCube"), WorldConfig(), CONFIG, policy)
    with pytest.raises(UserError, match="its own spawn regions"):
        StockRunner(cell, WorldConfig(spawn_spread=0.5), CONFIG, policy)


def test_their_episodes_are_kept_and_not_run_again(tmp_path: Path) -> None:
    world, random = WorldConfig(cells=("panda/PushCube",)), OtherPolicy(name="random", policy="random")
    said: list[str] = []

    def roll(seeds: Sequence[int]) -> list[dict[str, Any]]:
        config, resources = EvaluateConfig(max_steps=4), ResourceConfig()
        return roll_out_theirs(random, world, seeds, tmp_path, config, resources, "ours", say=said.append)

    first = roll([1_000_000])
    both = roll([1_000_000, 1_000_001])
    assert both[0] == first[0]
    assert [record["seed"] for record in both] == [1_000_000, 1_000_001]
    assert {record["steps"] for record in both} == {4}
    assert roll([1_000_001]) == both[1:]
    assert len(said) == 2, "the third time there was nothing to run"


def test_agreement_is_counted_seed_by_seed_and_errors_apart() -> None:
    def record(seed: int, success: bool, steps: int, error: bool = False) -> dict[str, Any]:
        return {"cell": "c", "seed": seed, "success": success, "steps": steps, "error": error, "backend": "x"}

    ours = [record(1, True, 9), record(2, True, 8), record(3, False, 50), record(4, True, 7), record(6, True, 5)]
    theirs = [record(1, True, 9), record(2, True, 7), record(3, True, 40), record(4, False, 3, error=True)]
    found = agreement(ours, theirs, ["c"])
    row = found["cells"][0]
    assert (row["episodes"], row["errors"], row["agree"], row["same_steps"]) == (3, 1, 2, 1)
    assert (row["ours"]["successes"], row["maniskill"]["successes"]) == (2, 3)
    assert row["disagreeing_seeds"] == [3]
    assert found["overall"] == row | {"cell": "all"}
    assert agreement_lines([row])[1].split() == ["c", "3", "2", "3", "2", "1", "3"]
