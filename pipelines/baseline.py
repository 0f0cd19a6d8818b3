"""Stage `baseline`: Diffusion Policy, learned from the same demonstrations, for every table to have it beside ours.

Same windows, same held-out episodes, same representation and normalisation of actions as Stage II; it sees pictures and
nothing of the multimodal model. Left out by default (`baseline.steps: 0`), since it takes as long as everything else.

    model/ or models/<robot or cell>/    the checkpoint(s)
    models.json                          which is for what; empty if the stage is left out
    metrics.json                         curve and held-out losses, of each model
    pictures/                            decoded pictures, while it trains

    blm baseline --preset tiny --set baseline.steps=4000
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blm.cluster import depot
from blm.model.diffusion_options import DiffusionPolicyConfig
from blm.model.errors import UserError
from blm.model.options import Precision
from blm.pipelines.policy_training.regimes import Per, Scope, check_cells, scopes, write_models
from blm.pipelines.policy_training.results import METRICS
from blm.pipelines.workspace import StageContext, read_json, write_json

VERSION = 1
DECODING_TASKS = 2
"""Ray Data tasks that decode pictures for each trainer, where they are not decoded beforehand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineConfig:
    """Diffusion Policy and how it is trained."""

    policy: DiffusionPolicyConfig = field(default_factory=DiffusionPolicyConfig)
    """Size of the network."""
    steps: int = 0
    """Optimiser steps; 0: there is no baseline."""
    per: Per = "all"
    """How many models: one for `all` cells, one a `robot`, or one a `cell`; the paper has all three."""
    cells: tuple[str, ...] = ()
    """Cells (`robot/Task`) whose demonstrations are learned; none: all there are."""
    temperature: float = 1.0
    """How cells share a batch: by the number of their windows to this power."""
    batch: int = 64
    """Windows a step, over all workers."""
    draws: int = 4
    """Draws of noise a window: what a picture costs is paid once for all of them."""
    learning_rate: float = 1e-3
    """Peak; linear warm-up, then cosine to 5 % of it. The paper has 1e-4, for a network a hundred times as large."""
    warmup: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    """AdamW's, on matrices alone."""
    clip_norm: float = 1.0
    """Gradients are clipped to this norm."""
    ema: float = 0.998
    """Decay of the weight average that is exported."""
    precision: Precision = "float32"
    """Of matrix products; small convolutions are no faster in bfloat16 on CPUs. auto: as resources.dtype says, and
    bfloat16 on CPUs that have it."""
    min_actions: int = 1
    """Windows with fewer actions before their episode ends are left out."""
    decoded_gb: float = 4.0
    """Pictures that take no more than this are decoded once, to a file that workers map into memory; more are decoded
    as they are needed, by Ray Data."""
    checkpoint_every_s: float = 20.0
    """Seconds between training checkpoints."""
    validate_every: int = 500
    """Steps between measurements on held-out episodes."""

    def __post_init__(self) -> None:
        for name in ("batch", "draws", "validate_every", "min_actions"):
            if getattr(self, name) < 1:
                raise UserError(f"baseline.{name} is {getattr(self, name)}; give 1 or more")
        for name in ("steps", "warmup", "weight_decay", "temperature", "decoded_gb"):
            if getattr(self, name) < 0:
                raise UserError(f"baseline.{name} is {getattr(self, name)}; give 0 or more")
        if self.min_actions > self.policy.chunk:
            raise UserError(f"baseline.min_actions is {self.min_actions}; a chunk has {self.policy.chunk} actions")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 <= self.ema < 1):
            raise UserError(
                "baseline.learning_rate and baseline.clip_norm must be above 0, baseline.ema from 0 to below 1"
            )
        check_cells(self.cells)


def baseline(config: BaselineConfig, context: StageContext) -> dict[str, Any]:
    """Train, and write checkpoints, `models.json` and `metrics.json`. Returns the summary."""
    if config.steps == 0:
        context.progress("left out; baseline.steps is 0")
        write_models(context.out, [])
        return {"models": 0}
    from blm.pipelines import workers
    from blm.pipelines.diffusion_baseline import loop
    from blm.pipelines.diffusion_baseline.pictures import decode_once
    from blm.pipelines.policy_training.fan_out import fan_out
    from blm.pipelines.windows.dataset import datasets_of
    from blm.pipelines.windows.store import open_windows, prepare_windows

    resources = context.resources
    if config.batch < resources.train_workers:
        raise UserError(f"baseline.batch is {config.batch}; {resources.train_workers} workers need a row each at least")
    datasets = datasets_of(context.inputs["render"])
    windows = context.out / "windows"
    prepare_windows(
        datasets,
        windows,
        chunk=config.policy.chunk,
        min_actions=config.min_actions,
        workers=resources.num_cpus,
        progress=context.progress,
    )
    models = scopes(config.per, {r.name: r.group_names for r in open_windows(windows, datasets)}, config.cells)
    pictures = context.out / "pictures"
    decoded = decode_once(datasets, context.world.cameras, pictures, most_gb=config.decoded_gb, say=context.progress)
    loop_configs = [_loop_config(config, context, scope, datasets, decoded) for scope in models]
    if config.per == "all":
        workers.fit(loop.train, loop_configs[0], context.out, resources)
    else:
        context.progress(f"{len(models)} models, one a {config.per}")
        fan_out(loop.run, loop_configs, context.out, resources)
    metrics = {scope.name: read_json(depot.here(_folder(context, scope) / METRICS)) for scope in models}
    write_json(context.out / "metrics.json", {"models": metrics} | next(iter(metrics.values())))
    write_models(context.out, models)
    depot.drop(pictures)
    return _summary(context, metrics)


def _folder(context: StageContext, scope: Scope) -> Path:
    """Where a model is trained."""
    return context.out / "train" / scope.slug


def _loop_config(
    config: BaselineConfig, context: StageContext, scope: Scope, datasets: dict[str, Path], decoded: dict[str, Path]
) -> dict[str, Any]:
    """What a training worker is told."""
    return {
        "stage": config,
        "scope": scope.name,
        "cells": list(scope.cells),
        "datasets": {robot: str(datasets[robot]) for robot in scope.robots},
        "decoded": {robot: str(path) for robot, path in decoded.items() if robot in scope.robots},
        "tasks": DECODING_TASKS,
        "windows": str(context.out / "windows"),
        "folder": str(_folder(context, scope)),
        "model": str(context.out / scope.folder),
        "cameras": context.world.cameras,
        "image_px": context.world.image_px,
        "seed": context.seed,
        "dtype": context.resources.dtype,
        "provenance": {
            "scope": scope.name,
            "cells": list(scope.cells),
            "geometry": context.world.geometry,
            "seed": context.seed,
        },
    }


def _summary(context: StageContext, metrics: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means over the models; curves go to the tracker."""
    for scope, found in metrics.items():
        prefix = "" if len(metrics) == 1 else f"{scope.replace('/', '-')}."
        for point in found["curve"] + found["validation"]:
            values = {prefix + key: value for key, value in point.items() if key != "step"}
            context.tracker.log_metrics(values, step=point["step"])
    last = [found["validation"][-1] for found in metrics.values()]
    means = {key: round(sum(point[key] for point in last) / len(last), 5) for key in ("val_loss", "val_action")}
    first = next(iter(metrics.values()))
    context.progress(
        f"held-out loss {means['val_loss']:.4f}, actions {means['val_action']:.3f} from the demonstrated ones"
    )
    return {
        "models": len(metrics),
        "parameters": first["parameters"],
        "windows": sum(found["windows"] for found in metrics.values()),
        "final_loss": first["curve"][-1]["loss"],
        **means,
        "samples_per_s": first["samples_per_s"],
    }
