"""Stage II: the policy, trained on the intents of the frozen MLLM: one model for all cells, one a robot, or one a cell.

Intents come from the cache, or with `intents.cache: none` from the MLLM in every step. While it trains, candidates may
be rolled out on seeds of their own, and the best one becomes the model. `docs/policy.md` says what the options are for.

    model/ or models/<robot or cell>/    the deployable checkpoint(s)
    models.json                          which is for what
    metrics.json                         curves, held-out losses, and which candidate was taken and why
    rollouts.jsonl                       validation rollouts

    blm stage2 --preset tiny
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blm.actors.sim.world import seed_range
from blm.cluster import depot
from blm.model.augment import AugmentConfig
from blm.model.errors import UserError
from blm.model.options import OptimizerName, PolicyConfig, Precision
from blm.pipelines.policy_training.candidates import CANDIDATES
from blm.pipelines.policy_training.judge import Entrant, Judge
from blm.pipelines.policy_training.regimes import Per, Scope, check_cells, scopes, write_models
from blm.pipelines.policy_training.results import finish_models, summary
from blm.pipelines.workspace import StageContext

if TYPE_CHECKING:  # it brings PyTorch along
    from blm.pipelines.intent_cache import IntentCache

VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage2Config:
    """The policy and how it is trained."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """Size and losses of the policy."""
    per: Per = "all"
    """How many models: one for `all` cells, one a `robot`, or one a `cell`; several are trained beside one another as
    Ray tasks, each on one CPU thread or one GPU."""
    cells: tuple[str, ...] = ()
    """Cells (`robot/Task`) whose demonstrations are learned; none: all there are."""
    temperature: float = 1.0
    """How cells share a batch: by the number of their windows to this power. 1: every window equally often; 0: every
    cell equally often."""
    steps: int = 1500
    """Optimiser steps."""
    batch: int = 64
    """Windows a step, over all workers."""
    draws: int = 1
    """Noise draws a window, sharing the bridge and its keys and values."""
    optimizer: OptimizerName = "adamw"
    """Fused AdamW; `muon` for the matrices of the bridge's and the transformer's blocks; `adamw8bit` for a quarter of
    the optimiser's memory (needs the extra `lowbit`)."""
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
    compile: bool = False
    """Compile the blocks of bridge and transformer with torch.compile."""
    augment: AugmentConfig | None = None
    """How pictures are changed where the MLLM runs in every step (`intents.cache: none`); null: not at all."""
    min_actions: int = 1
    """Windows with fewer actions before their episode ends are left out."""
    checkpoint_every_s: float = 20.0
    """Seconds between training checkpoints."""
    validate_every: int = 500
    """Steps between measurements of the held-out loss."""
    rollouts_every: int = 0
    """Steps between candidates that are rolled out while training goes on, the best of which is exported; 0: none, and
    the last weights are exported."""
    rollout_episodes: int = 20
    """Validation rollouts of a candidate in each cell, on seeds that serve nothing else."""
    rollout_execute_steps: int = 8
    """Actions of a chunk that they execute before the policy looks again."""
    rollout_euler_steps: int = 4
    """Integration steps from noise to actions in them."""
    rollout_actors: int = 1
    """Simulator processes that run them."""

    def __post_init__(self) -> None:
        counts = ("steps", "batch", "draws", "validate_every", "min_actions")
        rollouts = ("rollout_episodes", "rollout_execute_steps", "rollout_euler_steps", "rollout_actors")
        for name in counts + rollouts:
            if getattr(self, name) < 1:
                raise UserError(f"stage2.{name} is {getattr(self, name)}; give 1 or more")
        if not 0 <= self.temperature <= 1:
            raise UserError(f"stage2.temperature is {self.temperature}; give 0 (cells alike) to 1 (windows alike)")
        for name in ("rollouts_every", "warmup", "weight_decay"):
            if getattr(self, name) < 0:
                raise UserError(f"stage2.{name} is {getattr(self, name)}; give 0 or more")
        for name in ("min_actions", "rollout_execute_steps"):
            if getattr(self, name) > self.policy.chunk:
                raise UserError(f"stage2.{name} is {getattr(self, name)}; a chunk has {self.policy.chunk} actions")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 <= self.ema < 1):
            raise UserError("stage2.learning_rate and stage2.clip_norm must be above 0, stage2.ema from 0 to below 1")
        if self.rollout_episodes > len(seed_range("validate")):
            raise UserError(
                f"stage2.rollout_episodes is {self.rollout_episodes}; {len(seed_range('validate'))} seeds are set aside"
            )
        check_cells(self.cells)


def stage2(config: Stage2Config, context: StageContext) -> dict[str, Any]:
    """Train, roll candidates out, and write checkpoints, `models.json` and `metrics.json`."""
    from blm.pipelines import workers
    from blm.pipelines.intents import open_caches
    from blm.pipelines.policy_training import loop
    from blm.pipelines.policy_training.fan_out import fan_out
    from blm.pipelines.windows.dataset import datasets_of

    resources = context.resources.for_policy
    if config.batch < resources.train_workers:
        raise UserError(f"stage2.batch is {config.batch}; {resources.train_workers} workers need a row each at least")
    datasets = datasets_of(context.inputs["render"])
    _check_robots(config, context, datasets)
    model_dir = context.inputs["stage1"] / "model"
    caches = open_caches(context.inputs["intents"], model_dir, datasets, context.world.cameras)
    if config.augment is not None and not any(cache.live for cache in caches.values()):
        raise UserError(
            "stage2.augment changes pictures, which the cache holds as they are; set intents.cache to none, or"
            " intents.augmentations in place of it"
        )
    models = _scopes(config, context, datasets)
    loop_configs = [loop_config(config, context, scope, datasets, caches) for scope in models]
    entrants = [
        Entrant(scope=scope.name, folder=training_folder(context, scope) / CANDIDATES, cells=scope.playable)
        for scope in models
    ]
    records: list[dict[str, Any]] = []
    with Judge(config, context, entrants) if config.rollouts_every else nullcontext() as judge:
        if config.per == "all":
            workers.fit(loop.train, loop_configs[0], context.out, resources)
        else:
            context.progress(f"{len(models)} models, one a {config.per}")
            fan_out(loop.run, loop_configs, context.out, resources)
        if judge is not None:
            records = judge.finish()
    metrics = finish_models(context, models, {scope.name: training_folder(context, scope) for scope in models}, records)
    write_models(context.out, models)
    depot.drop(context.out / "windows")  # as large as the demonstrations, and made again in a moment
    for point in metrics["curve"] + metrics["validation"]:
        context.tracker.log_metrics({k: v for k, v in point.items() if k != "step"}, step=point["step"])
    return summary(context, metrics)


def training_folder(context: StageContext, scope: Scope) -> Path:
    """Where a model is trained: checkpoints, candidates and metrics."""
    return context.out / "train" / scope.slug


def _check_robots(config: Stage2Config, context: StageContext, datasets: dict[str, Path]) -> None:
    """UserError for a robot that is to act without having been shown anything."""
    for cell in config.cells or context.world.cells:
        robot = cell.partition("/")[0]
        if robot not in datasets:
            raise UserError(
                f"there are no demonstrations for {robot}, which {cell} needs; collect and render some, or leave its"
                " cells out (world.cells, stage2.cells)"
            )


def _scopes(config: Stage2Config, context: StageContext, datasets: dict[str, Path]) -> list[Scope]:
    """The models to be trained. Reads all windows once, and checks them."""
    from blm.pipelines.windows.store import open_windows, prepare_windows

    folder = context.out / "windows"
    prepare_windows(
        datasets,
        folder,
        chunk=config.policy.chunk,
        min_actions=config.min_actions,
        workers=context.resources.num_cpus,
        progress=context.progress,
    )
    opened = open_windows(folder, datasets)
    return scopes(config.per, {robot.name: robot.group_names for robot in opened}, config.cells)


def loop_config(
    config: Stage2Config,
    context: StageContext,
    scope: Scope,
    datasets: dict[str, Path],
    caches: "dict[str, IntentCache]",
) -> dict[str, Any]:
    """What a training worker is told; plain values and the configuration."""
    cache = caches[scope.robots[0]]
    live = any(one.live for one in caches.values())
    return {
        "stage": config,
        "scope": scope.name,
        "cells": list(scope.cells),
        "datasets": {robot: str(datasets[robot]) for robot in scope.robots},
        "windows": str(context.out / "windows"),
        "caches": {} if live else {robot: str(context.inputs["intents"] / robot) for robot in scope.robots},
        "mllm": str(context.inputs["stage1"] / "model"),
        "folder": str(training_folder(context, scope)),
        "seed": context.seed,
        "dtype": context.resources.dtype,
        "contract": {
            "layer": cache.layer,
            "max_text_tokens": cache.max_text_tokens,
            "intents_precision": cache.precision,
            "cameras": list(context.world.cameras),
            "image_px": context.world.image_px,
            "intents_fingerprint": cache.fingerprint,
            "provenance": {
                "scope": scope.name,
                "cells": list(scope.cells),
                "geometry": context.world.geometry,
                "seed": context.seed,
                "intent_keys": {robot: caches[robot].key.to_json() for robot in scope.robots},
            },
        },
    }
