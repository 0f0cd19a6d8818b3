"""Stage II through Ray: two workers, two robots, one worker killed on the way, rollouts beside it; a model a cell."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from small_dataset import WORLD, acting_for_both
from small_intents import write_datasets, write_intents

from blm.actors.sim.world import seed_range
from blm.model.augment import AugmentConfig
from blm.model.checkpoint import read_contract
from blm.model.errors import UserError
from blm.model.options import PolicyConfig
from blm.pipelines.policy_training.regimes import model_for
from blm.pipelines.stage2 import Stage2Config, stage2
from blm.pipelines.tracking import Tracker
from blm.pipelines.workspace import ResourceConfig, StageContext

POLICY = PolicyConfig(width=32, blocks=4, heads=2, latents=3, head_hidden=32, future_block=2)
CONFIG = Stage2Config(
    policy=POLICY,
    steps=200,
    batch=6,
    learning_rate=3e-3,
    warmup=5,
    validate_every=100,
    checkpoint_every_s=0.0,
    rollouts_every=100,
    rollout_episodes=1,
)
WORKER = "RayTrainWorker"
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def context(tiny_mllm, tmp_path_factory) -> StageContext:
    root = tmp_path_factory.mktemp("stage2")
    (root / "stage1").mkdir()
    (root / "stage1/model").symlink_to(tiny_mllm)
    (root / "stage2-0").mkdir()
    render = write_datasets(root / "render", ("panda", "xarm6"), episodes=10)
    intents = write_intents(root / "intents", render, tiny_mllm)
    return StageContext(
        out=root / "stage2-0",
        inputs={"render": render, "stage1": root / "stage1", "intents": intents},
        world=WORLD,
        seed=0,
        tracker=Tracker(),
        resources=ResourceConfig(num_cpus=2, train_workers=2),
    )


def kill_a_worker(checkpoint: Path, killed: list[int]) -> None:
    """SIGKILL one training worker once a checkpoint has been written."""
    deadline = time.monotonic() + TIMEOUT_S
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = [p for p in psutil.Process().children(recursive=True) if WORKER in " ".join(p.cmdline())]
    for worker in workers[:1]:
        os.kill(worker.pid, signal.SIGKILL)
        killed.append(worker.pid)


@pytest.fixture(scope="module")
def trained(ray_cluster, context) -> dict:
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(context.out / "train/all/checkpoint.pt", killed))
    killer.start()
    summary = stage2(CONFIG, context)
    killer.join()
    assert killed, "training ended before a worker could be killed"
    return summary


@pytest.mark.ray
@pytest.mark.slow
def test_it_learns_although_a_worker_died(trained, context):
    metrics = json.loads((context.out / "metrics.json").read_text())
    steps = [point["step"] for point in metrics["curve"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == CONFIG.steps
    assert metrics["curve"][-1]["flow"] < 0.8 * metrics["curve"][0]["flow"]
    assert trained["windows"] == metrics["windows"]
    last = metrics["validation"][-1]
    assert {"val_flow", "val_future", "val_copy", "val_target_std"} < set(last)
    assert np.isfinite(list(last.values())).all()


@pytest.mark.ray
@pytest.mark.slow
def test_the_checkpoint_acts_for_both_robots(trained, context):
    acting_for_both(context.out / "model")
    contract = json.loads((context.out / "model/blm.json").read_text())
    assert contract["provenance"]["intent_keys"].keys() == {"panda", "xarm6"}


@pytest.mark.ray
@pytest.mark.slow
def test_the_candidate_with_the_most_successes_is_exported(trained, context):
    lines = [json.loads(line) for line in (context.out / "rollouts.jsonl").read_text().splitlines()]
    assert {(line["step"], line["cell"]) for line in lines} == {
        (step, f"{robot}/PushCube") for step in (100, 200) for robot in ("panda", "xarm6")
    }
    assert all(line["seed"] in seed_range("validate") and not line["error"] for line in lines)
    metrics = json.loads((context.out / "metrics.json").read_text())
    assert [point["episodes"] for point in metrics["rollouts"]] == [2, 2]
    chosen = metrics["chosen"]["step"]
    best = max(metrics["rollouts"], key=lambda point: (point["successes"], point["step"]))
    assert chosen == best["step"]
    assert json.loads((context.out / "model/blm.json").read_text())["provenance"]["step"] == chosen
    assert model_for(context.out, "panda/PushCube") == context.out / "model"
    assert not list(context.out.glob("train/*/candidates"))


@pytest.mark.ray
@pytest.mark.slow
def test_a_model_a_cell_is_trained_by_tasks_beside_one_another(ray_cluster, context):
    out = context.out.with_name("stage2-1")
    config = replace(CONFIG, per="cell", steps=30, rollouts_every=0, validate_every=30)
    summary = stage2(config, replace(context, out=out))
    assert summary["models"] == 2
    metrics = json.loads((out / "metrics.json").read_text())
    assert [model["scope"] for model in metrics["models"]] == ["panda/PushCube", "xarm6/PushCube"]
    assert metrics["curve"][-1]["flow"] == pytest.approx(
        np.mean([m["curve"][-1]["flow"] for m in metrics["models"]]), abs=1e-4
    )
    for cell in ("panda/PushCube", "xarm6/PushCube"):
        contract = read_contract(model_for(out, cell))
        assert contract.embodiments == (cell.partition("/")[0],)


def test_intents_of_another_model_are_refused(context, tiny_mllm, tmp_path):
    other = tmp_path / "stage1/model"
    other.mkdir(parents=True)
    for file in tiny_mllm.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    changed = replace(context, inputs={**context.inputs, "stage1": tmp_path / "stage1"})
    with pytest.raises(UserError, match="stale: its weights changed"):
        stage2(CONFIG, changed)


def test_a_batch_needs_a_row_for_each_worker(context):
    with pytest.raises(UserError, match=r"stage2\.batch is 1; 2 workers"):
        stage2(replace(CONFIG, batch=1), context)


def test_missing_inputs_are_told(context, tmp_path):
    with pytest.raises(UserError, match=r"index.json is missing"):
        stage2(CONFIG, replace(context, inputs={**context.inputs, "intents": tmp_path}))


def test_a_robot_without_demonstrations_is_told_before_anything_is_trained(context):
    world = replace(context.world, cells=("panda/PushCube", "widowx_ai/PushCube"))
    with pytest.raises(UserError, match="no demonstrations for widowx_ai, which widowx_ai/PushCube needs"):
        stage2(CONFIG, replace(context, world=world))


def test_changed_pictures_need_the_model_in_the_loop(context):
    with pytest.raises(UserError, match=r"stage2\.augment changes pictures, which the cache holds as they are"):
        stage2(replace(CONFIG, augment=AugmentConfig()), context)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "stage2.steps is 0"),
        ({"min_actions": 17}, "min_actions is 17; a chunk has 16"),
        ({"learning_rate": 0.0}, "must be above 0"),
        ({"ema": 1.0}, "stage2.ema"),
        ({"temperature": 1.5}, "stage2.temperature is 1.5"),
        ({"rollouts_every": -1}, "stage2.rollouts_every is -1"),
        ({"rollout_execute_steps": 17}, "rollout_execute_steps is 17; a chunk has 16"),
        ({"rollout_episodes": 2_000_000}, "1000000 seeds are set aside"),
        ({"cells": ("panda/PushCub",)}, "did you mean 'PushCube'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Stage2Config(**options)
