"""Stage II: the policy, trained on cached intents of the frozen MLLM.

blm stage2 --preset tiny
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from blm.model.errors import UserError
from blm.model.options import PolicyConfig, Precision
from blm.pipelines.intents import IntentsConfig, cache_key, datasets_of
from blm.pipelines.workspace import StageContext, read_json

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage2Config:
    """The policy and how it is trained."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """Size and losses of the policy."""
    steps: int = 1500
    """Optimiser steps."""
    batch: int = 64
    """Windows a step, over all workers."""
    draws: int = 1
    """Noise draws a window, sharing the bridge and its keys and values."""
    learning_rate: float = 1e-3
    """Peak; linear warm-up, then cosine to 5 % of it."""
    warmup: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    """AdamW's, on matrices alone."""
    clip_norm: float = 1.0
    """Gradients are clipped to this norm."""
    ema: float = 0.998
    """Decay of the weight average that is exported."""
    precision: Precision = "auto"
    """Of matrix products; weights stay float32. auto: as resources.dtype says, and bfloat16 on CPUs that have it."""
    min_actions: int = 1
    """Windows with fewer actions before their episode ends are left out."""
    checkpoint_every_s: float = 20.0
    """Seconds between training checkpoints."""
    validate_every: int = 500
    """Steps between measurements of the held-out loss."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "draws", "validate_every", "min_actions"):
            if getattr(self, name) < 1:
                raise UserError(f"stage2.{name} is {getattr(self, name)}; give 1 or more")
        if self.min_actions > self.policy.chunk:
            raise UserError(f"stage2.min_actions is {self.min_actions}; a chunk has {self.policy.chunk} actions")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 <= self.ema < 1):
            raise UserError("stage2.learning_rate and stage2.clip_norm must be above 0, stage2.ema from 0 to below 1")


def stage2(config: Stage2Config, context: StageContext) -> dict[str, Any]:
    """Train, and write `model/` (the deployable checkpoint) and `metrics.json` (curves)."""
    from blm.pipelines import stage2_loop, workers
    from blm.pipelines.intent_cache import IntentCache

    if config.batch < context.resources.train_workers:
        raise UserError(
            f"stage2.batch is {config.batch}; {context.resources.train_workers} workers need a row each at least"
        )
    probe = read_json(context.inputs["intents"] / "probe.json")
    datasets = datasets_of(context.inputs["render"])
    index = {robot: read_json(context.inputs["intents"] / robot / "index.json") for robot in datasets}
    made_with = IntentsConfig(layer=probe["layer"], max_text_tokens=probe["max_text_tokens"])
    for robot, dataset in datasets.items():  # a damaged or stale cache is told here, not by a worker
        key = cache_key(made_with, context.inputs["stage1"] / "model", dataset, context.world.cameras)
        IntentCache(context.inputs["intents"] / robot, key)
    loop_config = {
        "stage": asdict(config),
        "datasets": {robot: str(path) for robot, path in datasets.items()},
        "caches": {robot: str(context.inputs["intents"] / robot) for robot in datasets},
        "mllm": str(context.inputs["stage1"] / "model"),
        "out": str(context.out),
        "seed": context.seed,
        "dtype": context.resources.dtype,
        "contract": {
            "layer": probe["layer"],
            "max_text_tokens": probe["max_text_tokens"],
            "cameras": list(context.world.cameras),
            "image_px": context.world.image_px,
            "intents_fingerprint": next(iter(index.values()))["key"]["extractor"],
            "provenance": {
                "cells": list(context.world.cells),
                "geometry": context.world.geometry,
                "seed": context.seed,
                "intent_keys": {robot: entry["key"] for robot, entry in index.items()},
            },
        },
    }
    workers.fit(stage2_loop.train, loop_config, context.out, context.resources)
    metrics = read_json(context.out / "metrics.json")
    for point in metrics["curve"] + metrics["validation"]:
        context.tracker.log_metrics({k: v for k, v in point.items() if k != "step"}, step=point["step"])
    last = metrics["validation"][-1]
    context.progress(
        f"held-out flow loss {last['val_flow']:.4f}, future {last['val_future']:.3f} (copying: {last['val_copy']:.3f})"
    )
    return {
        "parameters": metrics["parameters"],
        "windows": metrics["windows"],
        "final_flow": metrics["curve"][-1]["flow"],
        "val_flow": last["val_flow"],
        "samples_per_s": metrics["samples_per_s"],
    }
