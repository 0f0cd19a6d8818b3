"""What Stage II reads, made small and without Ray: datasets of two robots and the intents of an untrained model."""

from pathlib import Path

from small_dataset import WORLD, write_dataset

from blm.pipelines.datasets.lerobot import LeRobotDataset
from blm.pipelines.intent_cache import ShardWriter, write_index
from blm.pipelines.intents import IntentsConfig, cache_key
from blm.pipelines.workspace import write_json

CONFIG = IntentsConfig(layer=2, max_text_tokens=64, episodes_per_shard=5, gate="warn")


def write_datasets(folder: Path, robots: tuple[str, ...], episodes: int) -> Path:
    """The folder of a render stage with a dataset a robot."""
    for seed, robot in enumerate(robots):
        write_dataset(folder / "lerobot" / robot, episodes=episodes, seed=seed, robot=robot)
    return folder


def write_intents(folder: Path, render: Path, mllm: Path) -> Path:
    """The folder of an intents stage for those datasets."""
    worker = ShardWriter(
        model_dir=str(mllm),
        layer=CONFIG.layer,
        max_text_tokens=CONFIG.max_text_tokens,
        cameras=WORLD.cameras,
        device="cpu",
        dtype="float32",
    )
    for dataset in sorted((render / "lerobot").iterdir()):
        shard = worker(
            {
                "dataset": str(dataset),
                "episodes": list(range(len(LeRobotDataset(dataset).episodes))),
                "shard": str(folder / dataset.name / "shard-00000.arrow"),
            }
        )
        write_index(folder / dataset.name, cache_key(CONFIG, mllm, dataset, WORLD.cameras), [shard])
    write_json(folder / "probe.json", {"layer": CONFIG.layer, "max_text_tokens": CONFIG.max_text_tokens, "cells": []})
    return folder
