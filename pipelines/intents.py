"""Stage `intents`: the frozen MLLM looks at every frame once, so that Stage II never has to run it.

Ray Data hands blocks of episodes to workers that each hold the MLLM cut off above block k; every block becomes a
shard of the cache. Then the gate: a linear probe from the intents to object positions. If they cannot be read out,
training a policy on them is wasted time, and the stage stops.

With `intents.cache: none` nothing is stored: the probe looks at a sample, and Stage II runs the MLLM in every step.

    blm intents --preset tiny
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from blm.cluster import depot
from blm.model.augment import AugmentConfig
from blm.model.errors import UserError
from blm.model.options import Precision
from blm.pipelines.workspace import StageContext, read_json, write_json

if TYPE_CHECKING:  # they bring PyTorch along
    from blm.pipelines.intent.writer import WriterOptions
    from blm.pipelines.intent_cache import IntentCache
    from blm.pipelines.probe import ProbeResult

VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class IntentsConfig:
    """Which hidden states are kept and how, and what the gate asks of them."""

    layer: int = 3
    """k: the block whose output is the intent. About half to three quarters of the depth works best."""
    max_text_tokens: int = 32
    """Room for the instruction behind the pictures."""
    cache: Literal["disk", "none"] = "disk"
    """none: nothing is stored, and Stage II runs the MLLM in every step."""
    store: Literal["bf16", "int8"] = "bf16"
    """How numbers are kept. int8, with a scale a token, takes half the room; index.json says how far off it is."""
    precision: Precision = "auto"
    """Of the MLLM's matrix products where its weights are float32. auto: bfloat16 on CPUs that are fast with it."""
    phrasings: int = 1
    """Wordings of each instruction: the dataset's own, then others of the task's training wordings."""
    augmentations: int = 0
    """Changed copies of each frame's pictures, beside the pictures as they are."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How the copies are changed."""
    episodes_per_shard: int = 25
    """Episodes in one piece of work and one file."""
    max_error_cm: float = 2.0
    """The gate: the object of at least one cell must be located better than this on held-out episodes."""
    gate: Literal["stop", "warn"] = "stop"
    """What happens if it is not."""

    def __post_init__(self) -> None:
        for name in ("layer", "max_text_tokens", "episodes_per_shard", "phrasings"):
            if getattr(self, name) < 1:
                raise UserError(f"intents.{name} is {getattr(self, name)}; give 1 or more")
        if not 0 <= self.augmentations < 256:
            raise UserError(f"intents.augmentations is {self.augmentations}; give 0 to 255")


def open_caches(
    intents: Path, model_dir: Path, datasets: Mapping[str, Path], cameras: tuple[str, ...]
) -> "dict[str, IntentCache]":
    """The caches of a finished intents stage, by robot. UserError for one that is incomplete or damaged, or that was
    made from other weights, another preparation of pictures and prompts, other cameras or other data."""
    from blm.pipelines.intent.key import cache_key
    from blm.pipelines.intent_cache import INDEX, IntentCache

    caches = {}
    for robot, dataset in datasets.items():
        made = {name: read_json(intents / robot / INDEX)[name] for name in ("layer", "max_text_tokens")}
        caches[robot] = IntentCache(intents / robot, cache_key(model_dir, dataset, cameras, **made))
    return caches


def intents(config: IntentsConfig, context: StageContext) -> dict[str, Any]:
    """Write `<robot>/shard-*.arrow` with `index.json`, and `probe.json`. UserError if the gate stays shut."""
    from blm.model.backbone import load_config
    from blm.pipelines.intent.building import SAMPLE, Build, build_cache, build_sample
    from blm.pipelines.intent.key import cache_key
    from blm.pipelines.probe import probe_dataset
    from blm.pipelines.windows.dataset import RobotDataset, datasets_of

    model_dir = context.inputs["stage1"] / "model"
    depth = load_config(model_dir).text_config.num_hidden_layers
    if config.layer > depth:
        raise UserError(f"intents.layer is {config.layer}; the model has blocks 1 to {depth}")
    options = _writer_options(config, context, model_dir)
    results: list[ProbeResult] = []
    frames = 0
    for robot, folder in datasets_of(context.inputs["render"]).items():
        dataset, out = RobotDataset.open(folder), context.out / robot
        key = cache_key(
            model_dir, folder, context.world.cameras, layer=config.layer, max_text_tokens=config.max_text_tokens
        )
        build = Build(
            dataset_dir=folder,
            key=key,
            options=options,
            episodes_per_shard=config.episodes_per_shard,
            workers=context.resources.model_workers,
            progress=context.progress,
        )
        if config.cache == "disk":
            cache, episodes = build_cache(build, out), list(range(len(dataset.episodes)))
        else:
            cache, episodes = build_sample(build, out)
        results += probe_dataset(dataset, episodes, cache)
        depot.drop(out / SAMPLE)
        frames += dataset.n_frames
    if config.cache == "none":
        context.progress(f"no cache: Stage II runs the MLLM up to block {config.layer} in every step")
    _tell(results, config, context)
    _gate(results, config, context)
    return {"frames": frames, "layer": config.layer, "probe": [asdict(result) for result in results]}


def _writer_options(config: IntentsConfig, context: StageContext, model_dir: Path) -> "WriterOptions":
    import torch

    from blm.model.training import resolve_precision
    from blm.pipelines.intent.making import Variants
    from blm.pipelines.intent.writer import WriterOptions

    device, dtype = context.resources.device, context.resources.dtype
    return WriterOptions(
        model_dir=str(model_dir),
        layer=config.layer,
        max_text_tokens=config.max_text_tokens,
        cameras=context.world.cameras,
        variants=Variants(phrasings=config.phrasings, augmentations=config.augmentations, augment=config.augment),
        store=config.store,
        device=device,
        dtype=dtype,
        precision=resolve_precision(config.precision, dtype, torch.device(device)),
    )


def _tell(results: "list[ProbeResult]", config: IntentsConfig, context: StageContext) -> None:
    for result in results:
        context.progress(
            f"probe {result.cell}: object {result.object_cm:.2f} cm (spread {result.object_spread_cm:.1f}),"
            f" goal {result.goal_cm:.2f} cm (spread {result.goal_spread_cm:.1f})"
        )
    write_json(
        context.out / "probe.json",
        {
            "layer": config.layer,
            "max_text_tokens": config.max_text_tokens,
            "cells": [asdict(result) for result in results],
        },
    )
    metrics = {f"probe/{r.cell}/{kind}_cm": getattr(r, f"{kind}_cm") for r in results for kind in ("object", "goal")}
    context.tracker.log_metrics(metrics)


def _gate(results: "list[ProbeResult]", config: IntentsConfig, context: StageContext) -> None:
    if not results:
        context.progress("no dataset says where its objects are; the gate has nothing to measure")
        return
    best = min(result.object_cm for result in results)
    if best <= config.max_error_cm:
        return
    message = (  # NaN comes here too
        f"gate: the intents of block {config.layer} locate no object better than {best:.1f} cm (limit"
        f" {config.max_error_cm}); train Stage I longer or go on with --set intents.gate=warn"
    )
    if config.gate == "stop":
        raise UserError(message)
    context.progress(message)
