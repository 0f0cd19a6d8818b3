"""Builds the intent cache of one dataset: shards by Ray Data workers, only those that are missing, then the index."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blm.cluster import depot
from blm.model.errors import UserError
from blm.model.intent_hashes import fingerprint
from blm.pipelines.datasets.items import map_items
from blm.pipelines.intent.key import CacheKey
from blm.pipelines.intent.shards import PARTS, part_path
from blm.pipelines.intent.writer import ShardWriter, WriterOptions
from blm.pipelines.intent_cache import INDEX, IntentCache, write_index
from blm.pipelines.windows.dataset import RobotDataset
from blm.pipelines.workspace import read_json, write_json

SAMPLE = "sample"
SAMPLE_EPISODES = 40
"""Of every group, where no cache is kept: enough for the probe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """What is to be built, and by whom."""

    dataset_dir: Path
    key: CacheKey
    options: WriterOptions
    episodes_per_shard: int
    workers: Mapping[str, Any]
    """As `map_items` wants them."""
    progress: Callable[[str], None]


def build_cache(build: Build, out: Path) -> IntentCache:
    """The finished cache in `out`. What an earlier attempt left there is used again where it is still true."""
    settings = _settings(build.options, live=False)
    index = read_json(out / INDEX) if (out / INDEX).is_file() else {}
    if index.get("key") != build.key.to_json() or not settings.items() <= index.items():
        dataset = RobotDataset.open(build.dataset_dir)
        results = _shards(build, list(range(len(dataset.episodes))), out)
        _tell(build, write_index(out, build.key, settings, results, frames=dataset.n_frames))
        depot.keep(out / INDEX)
        for path in out.glob("*.done.json"):
            depot.drop(path)
    return IntentCache(out, build.key)


def build_sample(build: Build, out: Path) -> tuple[IntentCache, list[int]]:
    """For intents that are computed when they are needed: an index without states in `out`, and a cache of some
    episodes in a folder below it, which the caller removes. Returns that cache and the places of its episodes."""
    dataset = RobotDataset.open(build.dataset_dir)
    episodes = _sample_of(dataset)
    results = _shards(build, episodes, out / SAMPLE)
    frames = sum(result["frames"] for result in results)
    write_index(out / SAMPLE, build.key, _settings(build.options, live=False), results, frames=frames)
    _tell(build, write_index(out, build.key, _settings(build.options, live=True), results, frames=dataset.n_frames))
    return IntentCache(out / SAMPLE, build.key), episodes


def _sample_of(dataset: RobotDataset) -> list[int]:
    """Places of up to SAMPLE_EPISODES episodes of every group, spread evenly."""
    chosen: list[int] = []
    for group in dataset.groups:
        members = [episode.index for episode in dataset.episodes if episode.group == group]
        places = np.linspace(0, len(members) - 1, min(len(members), SAMPLE_EPISODES)).astype(int)
        chosen += [members[i] for i in places]
    return sorted(chosen)


def _settings(options: WriterOptions, *, live: bool) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint(options.model_dir, options.layer, options.max_text_tokens),
        "layer": options.layer,
        "max_text_tokens": options.max_text_tokens,
        "precision": options.precision,
        "store": options.store,
        "phrasings": options.variants.phrasings,
        "augmentations": options.variants.augmentations,
        "live": live,
    }


def _shards(build: Build, episodes: Sequence[int], out: Path) -> list[dict[str, Any]]:
    """What the workers returned of every shard, in order; of those that are there already, what was noted."""
    said = json.dumps([build.key.to_json(), _settings(build.options, live=False), repr(build.options.variants)])
    tag = hashlib.sha256(said.encode()).hexdigest()[:8]
    size = build.episodes_per_shard
    items: list[dict[str, Any]] = [
        {
            "dataset": str(build.dataset_dir),
            "episodes": list(episodes[first : first + size]),
            "folder": str(out),
            "shard": f"shard-{number:05d}-{tag}",
            "measure": number == 0,
        }
        for number, first in enumerate(range(0, len(episodes), size))
    ]
    if not items:
        raise UserError(f"{build.dataset_dir} holds no episodes; collect demonstrations")
    done: dict[str, dict[str, Any]] = {}
    for item in items:
        name, note = item["shard"], out / f"{item['shard']}.done.json"
        if note.is_file() and all(part_path(out, name, part).is_file() for part in PARTS):
            done[name] = read_json(note)
    missing = [item for item in items if item["shard"] not in done]
    began, computed = time.monotonic(), 0
    arguments = {"options": build.options}
    for result in map_items(missing, ShardWriter, arguments=arguments, reads=("dataset",), **build.workers):
        done[result["shard"]] = result
        note = out / f"{result['shard']}.done.json"
        write_json(note, result)
        depot.keep(note)
        computed += result["frames"]
        rate = computed / (time.monotonic() - began)
        build.progress(
            f"{out.name}: {len(done)}/{len(items)} shards, {sum(d['frames'] for d in done.values())} frames,"
            f" {rate:.0f} a second"
        )
    for item in missing:
        for part in PARTS:
            depot.here(part_path(out, item["shard"], part))
    return [done[item["shard"]] for item in items]


def _tell(build: Build, index: Mapping[str, Any]) -> None:
    variants = f"{index['phrasings']} phrasings, {index['augmentations']} augmentations"
    errors = f"{100 * index['store_error']:.2f} % off in storage ({index['store']})"
    if index["compute_error"] is not None:
        errors += f", {100 * index['compute_error']:.2f} % in {index['precision']} products"
    build.progress(f"{index['observations']} distinct observations, {variants}; {errors}")
