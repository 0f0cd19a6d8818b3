"""The stage `baseline`: left out, in one process killed and resumed, and on Ray with several workers and models."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from small_dataset import SIDE, WORLD, look, write_dataset
from small_diffusion import SMALL

from blm.model.diffusion_policy import DiffusionPolicy, read_diffusion_contract
from blm.model.errors import UserError
from blm.pipelines.baseline import BaselineConfig, baseline
from blm.pipelines.diffusion_baseline import loop
from blm.pipelines.policy_training import course
from blm.pipelines.policy_training.regimes import read_models
from blm.pipelines.windows.store import prepare_windows
from blm.pipelines.workspace import ResourceConfig, StageContext

CPU = torch.device("cpu")
CONFIG = BaselineConfig(
    policy=SMALL, steps=30, batch=8, draws=2, learning_rate=3e-3, warmup=5, validate_every=15, checkpoint_every_s=0.0
)


class KilledError(Exception):
    """Stands for the death of the process."""


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A process group of one, as a training worker would find it."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets of two robots."""
    root = tmp_path_factory.mktemp("render")
    for robot in ("panda", "xarm6"):
        write_dataset(root / "lerobot" / robot, episodes=6, robot=robot)
    return root


def loop_config(render: Path, folder: Path, stage: BaselineConfig = CONFIG, robot: str = "panda") -> dict[str, Any]:
    """What the driver tells a worker that trains on one robot."""
    datasets = {robot: render / "lerobot" / robot}
    prepare_windows(datasets, folder / "windows", chunk=stage.policy.chunk, workers=0)
    return {
        "stage": stage,
        "scope": "all",
        "cells": [f"{robot}/PushCube"],
        "datasets": {name: str(path) for name, path in datasets.items()},
        "decoded": {},
        "tasks": 0,
        "windows": str(folder / "windows"),
        "folder": str(folder / "train"),
        "model": str(folder / "model"),
        "cameras": WORLD.cameras,
        "image_px": SIDE,
        "seed": 0,
        "dtype": "float32",
        "provenance": {},
    }


def metrics(folder: Path, below: str = "train") -> dict[str, Any]:
    """Curves without what depends on the clock."""
    found = json.loads((folder / below / "metrics.json").read_text())
    return {"losses": [point["loss"] for point in found["curve"]], "validation": found["validation"]}


def test_a_killed_training_continues_to_the_same_weights(
    process_group: None, render: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "LOG_EVERY", 10)
    monkeypatch.setattr(course, "AGREE_EVERY", 5)
    whole, killed = (loop_config(render, tmp_path / name) for name in ("whole", "killed"))
    loop.run(whole, CPU)
    undisturbed = metrics(tmp_path / "whole")
    assert undisturbed["losses"][-1] < 0.8 * undisturbed["losses"][0]
    assert [point["step"] for point in undisturbed["validation"]] == [15, 30]
    assert all(np.isfinite([point["val_loss"], point["val_action"]]).all() for point in undisturbed["validation"])

    with monkeypatch.context() as patch:
        make, calls = loop.draws_of, iter(range(100))

        def dying(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == 22:
                raise KilledError
            return make(*args, **kwargs)

        patch.setattr(loop, "draws_of", dying)
        with pytest.raises(KilledError):
            loop.run(killed, CPU)
    assert not (tmp_path / "killed" / "model").exists()
    loop.run(killed, CPU)
    assert metrics(tmp_path / "killed") == undisturbed
    first, second = ((tmp_path / name / "model/policy.safetensors").read_bytes() for name in ("whole", "killed"))
    assert first == second


def test_losses_that_are_not_finite_end_the_training(process_group: None, render: Path, tmp_path: Path) -> None:
    config = loop_config(render, tmp_path, replace(CONFIG, learning_rate=1e30, clip_norm=1e30, warmup=0))
    with pytest.raises(UserError, match=r"no longer finite at step \d+; lower baseline\.learning_rate"):
        loop.run(config, CPU)
    assert not (tmp_path / "model").exists()


def test_no_steps_is_no_baseline(stage_context: Callable[..., StageContext], render: Path) -> None:
    context = stage_context("baseline", inputs={"render": render}, world=WORLD)
    assert baseline(BaselineConfig(), context) == {"models": 0}
    assert read_models(context.out) == []


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_the_number_of_workers_does_not_matter_and_pictures_are_decoded_once(
    ray_cluster: None,
    process_group: None,
    render: Path,
    tmp_path: Path,
    stage_context: Callable[..., StageContext],
) -> None:
    alone = tmp_path / "render"
    shutil.copytree(render / "lerobot" / "panda", alone / "lerobot" / "panda")
    context = stage_context(
        "baseline", inputs={"render": alone}, world=WORLD, resources=ResourceConfig(num_cpus=2, train_workers=2)
    )
    summary = baseline(CONFIG, context)
    assert summary["models"] == 1
    assert read_models(context.out) == [{"scope": "all", "folder": "model", "cells": ["panda/PushCube"]}]
    assert not (context.out / "pictures").exists()

    loop.run(loop_config(alone, tmp_path / "one"), CPU)  # one worker that decodes in every step
    here, there = metrics(context.out, "train/all"), metrics(tmp_path / "one")
    assert here["losses"] == pytest.approx(there["losses"], rel=1e-3)
    assert here["validation"][-1]["val_loss"] == pytest.approx(there["validation"][-1]["val_loss"], rel=1e-2)


@pytest.mark.ray
@pytest.mark.slow
def test_one_model_a_robot_is_trained_by_tasks_beside_one_another(
    ray_cluster: None, render: Path, stage_context: Callable[..., StageContext]
) -> None:
    context = stage_context(
        "baseline", inputs={"render": render}, world=WORLD, resources=ResourceConfig(num_cpus=2, train_workers=2)
    )
    summary = baseline(replace(CONFIG, per="robot", steps=3, decoded_gb=0), context)
    assert summary["models"] == 2
    assert [model["folder"] for model in read_models(context.out)] == ["models/panda", "models/xarm6"]
    assert read_diffusion_contract(context.out / "models/xarm6").vocabulary == ("cube", "push", "target", "the", "to")
    policy = DiffusionPolicy.load(context.out / "models/xarm6")
    chunk = policy.infer(look("xarm6"))
    assert np.isfinite(chunk.actions).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "baseline.steps is -1"),
        ({"draws": 0}, "baseline.draws is 0"),
        ({"min_actions": 17}, "a chunk has 16 actions"),
        ({"ema": 1.0}, "baseline.ema"),
        ({"cells": ("panda/PushCub",)}, "did you mean 'PushCube'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BaselineConfig(**options)
