"""The physical part of the evaluation when things go wrong: scenes that kill processes, a policy of nonsense."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from blm.actors.leases import Progress
from blm.actors.rollout import Acting, Ended
from blm.actors.sim.outcome import EpisodeResult, EpisodeTiming, Failure, RolloutItem
from blm.actors.sim.world import WorldConfig, parse_cell
from blm.model.errors import UserError
from blm.pipelines.evaluate import EvaluateConfig
from blm.pipelines.evaluation.arena import Arena
from blm.pipelines.evaluation.books import Books
from blm.pipelines.evaluation.contestants import Contestant
from blm.pipelines.evaluation.references import OtherPolicy
from blm.pipelines.evaluation.rollouts import films, run_rollouts
from blm.pipelines.workspace import ResourceConfig, StageContext, write_json

PUSH = parse_cell("panda/PushCube")
WORLD = WorldConfig(cells=(PUSH.name,))
ALL = [{"scope": "all", "folder": "model", "cells": [PUSH.name]}]


def result(seed: int, *, success: bool = True, error: bool = False) -> EpisodeResult:
    failure = None if success else Failure.NOT_MOVED
    return EpisodeResult(
        cell=PUSH.name, seed=seed, policy="blm", instruction="go", success=success, failure=failure, error=error
    )


class Deadly:
    """A simulator process that dies at one scene and does the others."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def begin(self, acting: Acting) -> int:
        return os.getpid()

    def advance(self, items: Sequence[RolloutItem]) -> Progress[RolloutItem, Ended]:
        if any(item.seed == self._seed for item in items):
            os._exit(1)
        timing = EpisodeTiming(cell=PUSH.name, seed=0, policy="random")
        return Progress(
            done=[
                (item, (replace(result(item.seed), policy="random"), replace(timing, seed=item.seed))) for item in items
            ]
        )


class DeadlyArena(Arena):
    """One whose simulator processes are those."""

    def _make_actor(self) -> Any:
        import ray

        return ray.remote(Deadly).options(num_cpus=0.5).remote(5)


@pytest.mark.ray
def test_a_scene_that_kills_its_workers_is_recorded_and_takes_no_other_along(ray_cluster: None, tmp_path: Path) -> None:
    random = OtherPolicy(name="random", policy="random")
    contestant = Contestant(acting=random, cells=(PUSH,), seeds=range(1, 9))
    said: list[str] = []
    with Books(tmp_path) as books, DeadlyArena(EvaluateConfig(), WORLD, ResourceConfig(), said.append) as arena:
        arena.run(contestant, books)
        records = {record["seed"]: record for record in books.episodes.records}
        assert len(books.timings) == 8
        assert arena.work.worker_deaths >= 4
    assert sorted(records) == list(range(1, 9))
    assert [seed for seed, record in records.items() if not record["success"]] == [5]
    assert (records[5]["failure"], records[5]["error"]) == (Failure.WORKER_LOST, True)
    assert records[5]["detail"]
    assert records[5]["instruction"]
    assert said[-1].startswith("random: 8/8 episodes")
    with Books(tmp_path) as books:
        assert 5 not in {record["seed"] for record in books.episodes.records}, "it is tried again another time"


@pytest.mark.ray
@pytest.mark.sim
def test_a_policy_that_answers_nonsense_throughout_ends_the_stage_with_the_reason(
    ray_cluster: None, tiny_mllm: Path, tmp_path: Path, stage_context: Callable[..., StageContext]
) -> None:
    import torch
    from small_policy import write_small_policy  # here, since workers import this module and do not find it

    from blm.model.checkpoint import read_contract, write_checkpoint

    contract = read_contract(write_small_policy(tmp_path / "small", tiny_mllm))
    diverged = {k: torch.full_like(w, torch.nan) for k, w in contract.build_policy().state_dict().items()}
    write_checkpoint(tmp_path / "stage2" / "model", tiny_mllm, contract, diverged)
    write_json(tmp_path / "stage2" / "models.json", ALL)
    context = stage_context("evaluate", inputs={"stage2": tmp_path / "stage2"}, world=WORLD)
    config = EvaluateConfig(episodes_per_cell=2, random_episodes_per_cell=0)
    with Books(context.out) as books:
        with pytest.raises(UserError, match=r"none of 2 episodes of blm could be run.*not finite"):
            run_rollouts(config, context, books)
        assert [record["failure"] for record in books.episodes.records] == [Failure.BAD_ACTION] * 2
    assert not (context.out / "rollouts").exists()


@pytest.mark.ray
def test_a_checkpoint_that_lacks_its_weights_is_named_before_anything_runs(
    ray_cluster: None, tiny_mllm: Path, tmp_path: Path, stage_context: Callable[..., StageContext]
) -> None:
    from small_policy import write_small_policy

    folder = write_small_policy(tmp_path / "stage2" / "model", tiny_mllm)
    write_json(tmp_path / "stage2" / "models.json", ALL)
    context = stage_context("evaluate", inputs={"stage2": tmp_path / "stage2"}, world=WORLD)
    with Books(context.out) as books:
        (folder / "policy.safetensors").unlink()
        with pytest.raises(UserError, match=r"policy\.safetensors cannot be loaded"):
            run_rollouts(EvaluateConfig(), context, books)
        shutil.rmtree(folder)
        with pytest.raises(UserError, match="does not exist"):
            run_rollouts(EvaluateConfig(), context, books)
        assert len(books.episodes) == 0


def test_the_first_successes_and_failures_are_filmed_but_no_episode_that_broke(
    stage_context: Callable[..., StageContext],
) -> None:
    context = stage_context("evaluate", world=WORLD)
    outcomes = ["error", "failure", "success", "success", "failure", "success", "failure"]
    records = [
        asdict(result(seed, success=outcome == "success", error=outcome == "error"))
        for seed, outcome in enumerate(outcomes)
    ]
    wanted = list(films(EvaluateConfig(videos_per_cell=2), context, records[::-1]))
    assert [film.out.name for film in wanted] == [
        "panda-PushCube-seed2-success.mp4",
        "panda-PushCube-seed3-success.mp4",
        "panda-PushCube-seed1-failure.mp4",
        "panda-PushCube-seed4-failure.mp4",
    ]
