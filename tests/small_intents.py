"""What Stage II reads, made small and without Ray: datasets of two robots and the intents of an untrained model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from small_dataset import WORLD, write_dataset

from blm.model.augment import AugmentConfig
from blm.pipelines.intent.building import Build, build_cache
from blm.pipelines.intent.key import cache_key
from blm.pipelines.intent.making import Variants
from blm.pipelines.intent.writer import WriterOptions
from blm.pipelines.intent_cache import IntentCache
from blm.pipelines.intents import IntentsConfig
from blm.pipelines.windows.dataset import datasets_of
from blm.pipelines.workspace import write_json

CONFIG = IntentsConfig(layer=2, max_text_tokens=64, episodes_per_shard=5, precision="float32", gate="warn")


def write_datasets(folder: Path, robots: tuple[str, ...], episodes: int) -> Path:
    """The folder of a render stage with a dataset a robot."""
    for seed, robot in enumerate(robots):
        write_dataset(folder / "lerobot" / robot, episodes=episodes, seed=seed, robot=robot)
    return folder


def options_for(mllm: Path, *, phrasings: int = 1, augmentations: int = 0, **changed: Any) -> WriterOptions:
    """Of a writer over the small datasets; `changed`: fields of WriterOptions."""
    options = WriterOptions(
        model_dir=str(mllm),
        layer=CONFIG.layer,
        max_text_tokens=CONFIG.max_text_tokens,
        cameras=WORLD.cameras,
        variants=Variants(phrasings=phrasings, augmentations=augmentations, augment=AugmentConfig()),
    )
    return replace(options, **changed)


def write_cache(folder: Path, dataset: Path, options: WriterOptions, episodes_per_shard: int = 10) -> IntentCache:
    """A finished cache of a dataset, made in this process."""
    key = cache_key(
        Path(options.model_dir),
        dataset,
        options.cameras,
        layer=options.layer,
        max_text_tokens=options.max_text_tokens,
    )
    build = Build(
        dataset_dir=dataset,
        key=key,
        options=options,
        episodes_per_shard=episodes_per_shard,
        workers={"workers": 0},
        progress=lambda _: None,
    )
    return build_cache(build, folder)


def write_intents(folder: Path, render: Path, mllm: Path) -> Path:
    """The folder of an intents stage for those datasets."""
    for robot, dataset in datasets_of(render).items():
        write_cache(folder / robot, dataset, options_for(mllm))
    write_json(folder / "probe.json", {"layer": CONFIG.layer, "max_text_tokens": CONFIG.max_text_tokens, "cells": []})
    return folder
