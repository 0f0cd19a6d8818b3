"""Stage `intents`: the frozen MLLM looks at every frame once, so that Stage II never has to run it.

Ray Data hands blocks of episodes to workers that each hold the MLLM cut off above block k; every block becomes a
shard of the cache. Then the gate: a linear probe from the intents to object positions. If they cannot be read out,
training a policy on them is wasted time, and the stage stops.

    blm intents --preset tiny
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from blm.model.errors import UserError
from blm.pipelines.datasets.items import map_items
from blm.pipelines.datasets.lerobot import LeRobotDataset
from blm.pipelines.workspace import StageContext, read_json, write_json

if TYPE_CHECKING:  # they bring PyTorch along
    from blm.pipelines.intent_cache import CacheKey, IntentCache
    from blm.pipelines.probe import ProbeResult

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class IntentsConfig:
    """Which hidden states are kept, and what the gate asks of them."""

    layer: int = 3
    """k: the block whose output is the intent. About half to three quarters of the depth works best."""
    max_text_tokens: int = 32
    """Room for the instruction behind the pictures."""
    episodes_per_shard: int = 25
    """Episodes in one piece of work and one file."""
    max_error_cm: float = 2.0
    """The gate: the object of at least one cell must be located better than this on held-out episodes."""
    gate: Literal["stop", "warn"] = "stop"
    """What happens if it is not."""

    def __post_init__(self) -> None:
        for name in ("layer", "max_text_tokens", "episodes_per_shard"):
            if getattr(self, name) < 1:
                raise UserError(f"intents.{name} is {getattr(self, name)}; give 1 or more")


def datasets_of(render: Path) -> dict[str, Path]:
    """Robot -> LeRobotDataset folder of a finished render stage, sorted. UserError if there is none."""
    folders = {
        path.name: path for path in sorted((render / "lerobot").glob("*")) if (path / "meta/info.json").is_file()
    }
    if not folders:
        raise UserError(f"{render} holds no dataset; run the render stage")
    return folders


def cache_key(config: IntentsConfig, model_dir: Path, dataset: Path, cameras: tuple[str, ...]) -> "CacheKey":
    """The key that a cache for this model and dataset must have."""
    from blm.model.intents import fingerprint
    from blm.pipelines.intent_cache import CacheKey, dataset_hash

    extractor = fingerprint(model_dir, config.layer, config.max_text_tokens)
    return CacheKey(extractor=extractor, cameras=cameras, data=dataset_hash(dataset))


def intents(config: IntentsConfig, context: StageContext) -> dict[str, Any]:
    """Write `<robot>/shard-*.arrow` with `index.json`, and `probe.json`. UserError if the gate stays shut."""
    from blm.model.backbone import load_config
    from blm.pipelines.intent_cache import IntentCache

    model_dir = context.inputs["stage1"] / "model"
    depth = load_config(model_dir).text_config.num_hidden_layers
    if config.layer > depth:
        raise UserError(f"intents.layer is {config.layer}; the model has blocks 1 to {depth}")
    results: list[ProbeResult] = []
    frames = 0
    for robot, folder in datasets_of(context.inputs["render"]).items():
        key = cache_key(config, model_dir, folder, context.world.cameras)
        _build(config, context, model_dir, folder, context.out / robot, key)
        cache = IntentCache(context.out / robot, key)
        frames += len(cache)
        results += _probe_cells(LeRobotDataset(folder), cache)
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
    best = min(result.object_cm for result in results)
    if not best <= config.max_error_cm:  # NaN keeps it shut too
        message = (
            f"gate: the intents of block {config.layer} locate no object better than {best:.1f} cm (limit"
            f" {config.max_error_cm}); train Stage I longer or go on with --set intents.gate=warn"
        )
        if config.gate == "stop":
            raise UserError(message)
        context.progress(message)
    metrics = {f"probe/{r.cell}/{kind}_cm": getattr(r, f"{kind}_cm") for r in results for kind in ("object", "goal")}
    context.tracker.log_metrics(metrics)
    return {"frames": frames, "layer": config.layer, "probe": [asdict(result) for result in results]}


def _build(
    config: IntentsConfig, context: StageContext, model_dir: Path, dataset_dir: Path, out: Path, key: "CacheKey"
) -> None:
    """Write the shards that are missing, then the index. Shards of an attempt with another key are not reused."""
    from blm.pipelines.intent_cache import INDEX, ShardWriter, write_index

    if (out / INDEX).is_file() and read_json(out / INDEX)["key"] == key.to_json():
        return  # a stage that was killed later on
    dataset = LeRobotDataset(dataset_dir)
    tag = key.extractor[:6] + key.data[:6]
    size = config.episodes_per_shard
    items: list[dict[str, Any]] = [
        {
            "dataset": str(dataset_dir),
            "episodes": list(range(first, min(first + size, len(dataset.episodes)))),
            "shard": str(out / f"shard-{number:05d}-{tag}.arrow"),
        }
        for number, first in enumerate(range(0, len(dataset.episodes), size))
    ]
    done: dict[str, dict[str, Any]] = {}
    for item in items:
        summary = Path(item["shard"]).with_suffix(".json")
        if summary.is_file() and Path(item["shard"]).is_file():
            done[item["shard"]] = read_json(summary)
    missing = [item for item in items if item["shard"] not in done]
    arguments = {
        "model_dir": str(model_dir),
        "layer": config.layer,
        "max_text_tokens": config.max_text_tokens,
        "cameras": context.world.cameras,
        "device": context.resources.device,
        "dtype": context.resources.dtype,
    }
    for result in map_items(missing, ShardWriter, arguments=arguments, **context.resources.model_workers):
        done[result["shard"]] = result
        write_json(Path(result["shard"]).with_suffix(".json"), result)
        context.progress(f"{len(done)}/{len(items)} shards, {sum(d['frames'] for d in done.values())} frames")
    write_index(out, key, [done[item["shard"]] for item in items])
    for item in items:
        Path(item["shard"]).with_suffix(".json").unlink(missing_ok=True)


def _probe_cells(dataset: LeRobotDataset, cache: "IntentCache") -> "list[ProbeResult]":
    from blm.pipelines.probe import MAX_FRAMES, probe

    results = []
    for cell in sorted({episode.extra["cell"] for episode in dataset.episodes}):
        positions, rows, owners = [], [], []
        for episode in dataset.episodes:
            if episode.extra["cell"] == cell:
                frames = dataset.read(episode, ["privileged.object_positions"])
                positions.append(dataset.values(frames, "privileged.object_positions")[:, 3:])
                rows.append(np.arange(episode.first_frame, episode.first_frame + episode.length))
                owners.append(np.full(episode.length, episode.index))
        index, truth, owner = np.concatenate(rows), np.concatenate(positions), np.concatenate(owners)
        some = np.linspace(0, len(index) - 1, min(len(index), MAX_FRAMES)).astype(int)
        states, _ = cache.rows(index[some])  # zeros where padded
        results.append(probe(cell, states.float().flatten(1), truth[some], owner[some]))
    return results
