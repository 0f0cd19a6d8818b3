"""Rollouts in step, as a GPU has them, with one copy on the CPU: the same code, and the outcomes of our runner."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from blm.actors.sim.env import CellEnv
from blm.actors.sim.execution_options import ExecutionConfig
from blm.actors.sim.many_cells import ManyCells
from blm.actors.sim.many_rollouts import ManyRollouts
from blm.actors.sim.outcome import Failure, RolloutConfig, RolloutItem
from blm.actors.sim.planner import CellPlanner
from blm.actors.sim.policies import RandomPolicy
from blm.actors.sim.runner import RolloutRunner
from blm.actors.sim.situations import situation
from blm.actors.sim.world import WorldConfig, parse_cell
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes
from blm.pipelines.evaluate import EvaluateConfig
from blm.pipelines.evaluation.books import read_episodes_of
from blm.pipelines.evaluation.gpu import roll_out
from blm.pipelines.evaluation.references import OtherPolicy
from blm.pipelines.workspace import ResourceConfig


@pytest.mark.parametrize("name", ["panda/PickCube", "xarm6/StackCube", "widowx_ai/LiftPegUpright"])
def test_a_copy_goes_the_way_of_a_single_simulator(name: str) -> None:
    cell = parse_cell(name)
    env, many = CellEnv(cell), ManyCells(cell, copies=1, device="cpu")
    env.reset(5)
    actions = CellPlanner(cell).plan(situation(env), env.proprio()[:-1], seed=5).actions
    env.reset(5)
    many.reset([5])
    np.testing.assert_allclose(many.states()[0], env.state(), atol=1e-6)
    for action in actions:
        done = env.step(action)
        assert many.step(action[None])[0] == done
        np.testing.assert_allclose(many.proprio()[0], env.proprio(), atol=1e-3)
        np.testing.assert_allclose(many.object_positions()[0], env.object_positions(), atol=1e-3)
    assert done
    many.close()


@pytest.mark.sim
def test_outcomes_are_those_of_the_runner_but_for_the_backend() -> None:
    cell, seeds = parse_cell("panda/PushCube"), (1_000_000, 1_000_001)
    world = WorldConfig(cells=(cell.name,), cameras=("front",), image_px=32)
    config = RolloutConfig(execution=ExecutionConfig(execute_steps=8), max_steps=24)
    policy = RandomPolicy()
    policy.sees = True  # it looks without using it
    runner = RolloutRunner(world, config, policy, slots=2)
    expected = [one.result for one in runner.run([RolloutItem(cell=cell, seed=seed) for seed in seeds])]
    runner.close()
    many = ManyRollouts(cell, world, config, policy, copies=1, device="cpu")
    found = [many.run([seed])[0] for seed in seeds]
    many.close()
    for one, other in zip(found, expected, strict=True):
        same = ("cell", "seed", "policy", "instruction", "success", "failure", "steps", "chunks", "backend")
        assert [getattr(one.result, name) for name in same] == [getattr(other, name) for name in same]
        assert one.result.closest_m == pytest.approx(other.closest_m, abs=1e-3)
        assert one.timing.physics_s > 0
        assert one.timing.render_s > 0


def test_a_policy_that_answers_wrongly_fails_with_its_reason() -> None:
    class Blank(RandomPolicy):
        def infer_batch(
            self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
        ) -> list[ActionChunk]:
            chunks = super().infer_batch(observations, seeds, prefixes)
            return [ActionChunk(actions=np.full_like(one.actions, np.nan), control_hz=one.control_hz) for one in chunks]

    cell = parse_cell("panda/PushCube")
    many = ManyRollouts(cell, WorldConfig(cells=(cell.name,)), RolloutConfig(), Blank(), copies=1, device="cpu")
    (finished,) = many.run([1_000_000])
    assert (finished.result.failure, finished.result.steps) == (Failure.BAD_ACTION, 0)
    many.close()


def test_results_are_written_in_order_and_not_made_again(tmp_path: Path) -> None:
    world, random = WorldConfig(cells=("panda/PushCube",)), OtherPolicy(name="random", policy="random")
    said: list[str] = []
    for count in (1, 3, 3):
        seeds, config = range(1_000_000, 1_000_000 + count), EvaluateConfig(max_steps=4)
        roll_out(random, world, seeds, tmp_path, config, ResourceConfig(), copies=1, device="cpu", say=said.append)
    records = read_episodes_of(tmp_path)
    assert [record["seed"] for record in records] == [1_000_000, 1_000_001, 1_000_002]
    assert {record["backend"] for record in records} == {"cpu, lite"}
    assert len(said) == 3, "one line an episode"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_without_cuda_it_says_so() -> None:
    with pytest.raises(UserError, match="needs CUDA"):
        ManyCells(parse_cell("panda/PushCube"), copies=4)
