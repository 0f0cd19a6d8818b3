"""Stage II through Ray Train: two workers, two robots, one worker killed on the way."""

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
from small_dataset import SIDE, WORLD
from small_intents import write_datasets, write_intents

from blm.model.errors import UserError
from blm.model.options import PolicyConfig
from blm.model.predictor import BlmPolicy
from blm.model.types import Observation
from blm.pipelines.stage2 import Stage2Config, stage2
from blm.pipelines.tracking import Tracker
from blm.pipelines.workspace import ResourceConfig, StageContext

POLICY = PolicyConfig(width=32, blocks=4, heads=2, latents=3, head_hidden=32, future_block=2)
CONFIG = Stage2Config(
    policy=POLICY, steps=400, batch=6, learning_rate=3e-3, warmup=5, validate_every=200, checkpoint_every_s=0.0
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
    killer = threading.Thread(target=kill_a_worker, args=(context.out / "train/checkpoint.pt", killed))
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
    policy = BlmPolicy.load(context.out / "model")
    seen = [
        Observation(
            images={"front": np.full((SIDE, SIDE, 3), 180, np.uint8)},
            state=np.zeros(dims, np.float32),
            instruction="push the cube to the target",
            embodiment=robot,
        )
        for robot, dims in (("panda", 8), ("xarm6", 7))
    ]
    chunks = policy.infer_batch(seen, [0, 1])
    assert [chunk.actions.shape for chunk in chunks] == [(16, 8), (16, 7)]
    assert all(np.isfinite(chunk.actions).all() for chunk in chunks)
    contract = json.loads((context.out / "model/blm.json").read_text())
    assert contract["provenance"]["intent_keys"].keys() == {"panda", "xarm6"}


def test_intents_of_another_model_are_refused(context, tiny_mllm, tmp_path):
    other = tmp_path / "stage1/model"
    other.mkdir(parents=True)
    for file in tiny_mllm.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    changed = replace(context, inputs={**context.inputs, "stage1": tmp_path / "stage1"})
    with pytest.raises(UserError, match="stale: its extractor changed"):
        stage2(CONFIG, changed)


def test_a_batch_needs_a_row_for_each_worker(context):
    with pytest.raises(UserError, match=r"stage2\.batch is 1; 2 workers"):
        stage2(replace(CONFIG, batch=1), context)


def test_missing_inputs_are_told(context, tmp_path):
    with pytest.raises(UserError, match=r"probe.json is missing"):
        stage2(CONFIG, replace(context, inputs={**context.inputs, "intents": tmp_path}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "stage2.steps is 0"),
        ({"min_actions": 17}, "min_actions is 17; a chunk has 16"),
        ({"learning_rate": 0.0}, "must be above 0"),
        ({"ema": 1.0}, "stage2.ema"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Stage2Config(**options)
