"""The physical part of the evaluation when things go wrong: scenes that kill processes, a policy of nonsense."""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from blm.actors.rollout import RolloutItem
from blm.actors.sim.outcome import EpisodeResult, Failure
from blm.actors.sim.world import WorldConfig, parse_cell
from blm.model.errors import UserError
from blm.pipelines.evaluate import EvaluateConfig
from blm.pipelines.evaluation.rollouts import KEY, _films, _run, run_rollouts
from blm.pipelines.ledger import Ledger
from blm.pipelines.workspace import StageContext, write_json

PUSH = parse_cell("panda/PushCube")
WORLD = WorldConfig(cells=(PUSH.name,))
ALL = [{"scope": "all", "folder": "model", "cells": [PUSH.name]}]


def result(seed: int, *, success: bool = True, error: bool = False) -> EpisodeResult:
    failure = None if success else Failure.NOT_MOVED
    return EpisodeResult(
        cell=PUSH.name, seed=seed, policy="blm", instruction="go", success=success, failure=failure, error=error
    )


class Deadly:
    """A worker whose process dies at one scene and does the others."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def work(self, item: RolloutItem) -> list[EpisodeResult]:
        if self._seed in item.seeds:
            os._exit(1)
        return [result(seed) for seed in item.seeds]


@pytest.mark.ray
def test_a_scene_that_kills_its_workers_is_recorded_and_takes_no_other_along(
    ray_cluster: None, stage_context: Callable[..., StageContext]
) -> None:
    import ray

    from blm.actors.pool import WorkPool

    context = stage_context("evaluate", world=WORLD)
    log = context.out / "episodes.jsonl"
    actor = ray.remote(Deadly).options(num_cpus=1)
    items = [RolloutItem(cell=PUSH, seeds=seeds, policy="blm") for seeds in ((1, 2, 3), (4, 5, 6))]
    with Ledger(log, KEY) as ledger:
        with WorkPool(lambda: actor.remote(5), actors=2, attempts=2) as pool:
            _run(EvaluateConfig(), context, ledger, pool, items)
            assert pool.deaths == 4  # its group twice, then the scene by itself twice
        records = {record["seed"]: record for record in ledger.records}
    assert sorted(records) == [1, 2, 3, 4, 5, 6]
    assert [seed for seed, record in records.items() if not record["success"]] == [5]
    assert (records[5]["failure"], records[5]["error"]) == (Failure.WORKER_LOST, True)
    assert records[5]["detail"]
    assert records[5]["instruction"]


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
    with Ledger(context.out / "episodes.jsonl", KEY) as ledger:
        with pytest.raises(UserError, match=r"none of 2 episodes of blm could be run.*not finite"):
            run_rollouts(config, context, ledger)
        assert [record["failure"] for record in ledger.records] == [Failure.BAD_ACTION] * 2
    assert not (context.out / "rollouts").exists()


@pytest.mark.ray
def test_a_checkpoint_that_lacks_its_weights_is_named_before_anything_runs(
    ray_cluster: None, tiny_mllm: Path, tmp_path: Path, stage_context: Callable[..., StageContext]
) -> None:
    from small_policy import write_small_policy

    folder = write_small_policy(tmp_path / "stage2" / "model", tiny_mllm)
    write_json(tmp_path / "stage2" / "models.json", ALL)
    context = stage_context("evaluate", inputs={"stage2": tmp_path / "stage2"}, world=WORLD)
    with Ledger(context.out / "episodes.jsonl", KEY) as ledger:
        (folder / "policy.safetensors").unlink()
        with pytest.raises(UserError, match=r"policy\.safetensors cannot be loaded"):
            run_rollouts(EvaluateConfig(), context, ledger)
        shutil.rmtree(folder)
        with pytest.raises(UserError, match="does not exist"):
            run_rollouts(EvaluateConfig(), context, ledger)
        assert len(ledger) == 0


def test_the_first_successes_and_failures_are_filmed_but_no_episode_that_broke(
    stage_context: Callable[..., StageContext],
) -> None:
    context = stage_context("evaluate", world=WORLD)
    outcomes = ["error", "failure", "success", "success", "failure", "success", "failure"]
    records = [
        asdict(result(seed, success=outcome == "success", error=outcome == "error"))
        for seed, outcome in enumerate(outcomes)
    ]
    films = list(_films(EvaluateConfig(videos_per_cell=2), context, records[::-1]))
    assert [film.out.name for film in films] == [
        "panda-PushCube-seed2-success.mp4",
        "panda-PushCube-seed3-success.mp4",
        "panda-PushCube-seed1-failure.mp4",
        "panda-PushCube-seed4-failure.mp4",
    ]
