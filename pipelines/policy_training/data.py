"""What a training worker reads: windows of the scope's robots and cells, their intents, and the contract they make."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from blm.cluster import depot
from blm.model.checkpoint import Contract
from blm.model.policy_batch import PolicyBatch
from blm.pipelines.intent_cache import IntentCache
from blm.pipelines.windows.dataset import RobotDataset
from blm.pipelines.windows.feed import PolicyFeed
from blm.pipelines.windows.index import WindowIndex
from blm.pipelines.windows.sources import CachedIntents, LiveIntents
from blm.pipelines.windows.statistics import statistics_of
from blm.pipelines.windows.store import open_windows

if TYPE_CHECKING:
    from blm.pipelines.stage2 import Stage2Config


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """All that steps need."""

    index: WindowIndex
    """Windows by number."""
    feed: PolicyFeed
    """Batches of them."""
    contract: Contract
    """What a checkpoint of this model says."""

    @property
    def max_action_dim(self) -> int:
        """Of the widest robot."""
        return max(layout.action_dim for layout in self.contract.layouts)

    def step_batch(self, stage: "Stage2Config", seed: int, step: int) -> PolicyBatch:
        """All rows of a step, on the CPU."""
        rows = self.index.step_rows(step, stage.batch, seed, stage.temperature)
        return self.feed.batch(rows, step=step, seed=seed).to(torch.device("cpu"))


def open_data(config: Mapping[str, Any], device: torch.device) -> TrainingData:
    """The data of one model, as the driver described it. UserError if something is damaged or does not fit."""
    stage: Stage2Config = config["stage"]
    datasets = {robot: depot.here(Path(path)) for robot, path in config["datasets"].items()}
    windows = open_windows(depot.here(Path(config["windows"])), datasets)
    cells = tuple(config["cells"])
    index = WindowIndex(windows, cells)
    statistics = statistics_of(windows, cells)
    intents = _intents(config, datasets, device)
    feed = PolicyFeed(index, statistics, intents, future=stage.policy.future_weight > 0)
    contract = Contract(
        policy=stage.policy,
        layouts=tuple(robot.layout for robot in windows),
        intent_width=intents.width,
        max_tokens=intents.tokens,
        statistics=statistics,
        **config["contract"] | {"cameras": tuple(config["contract"]["cameras"])},
    )
    return TrainingData(index=index, feed=feed, contract=contract)


def _intents(
    config: Mapping[str, Any], datasets: Mapping[str, Path], device: torch.device
) -> CachedIntents | LiveIntents:
    """From the cache, or by running the frozen MLLM in every step."""
    if config["caches"]:
        return CachedIntents({robot: IntentCache(depot.here(Path(path))) for robot, path in config["caches"].items()})
    from blm.model.intents import IntentExtractor

    contract = config["contract"]
    extractor = IntentExtractor(
        depot.here(Path(config["mllm"])),
        layer=contract["layer"],
        max_text_tokens=contract["max_text_tokens"],
        device=str(device),
        dtype=getattr(torch, config["dtype"]),
        precision=contract["intents_precision"],
    )
    opened = {robot: RobotDataset.open(path) for robot, path in datasets.items()}
    return LiveIntents(extractor, opened, tuple(contract["cameras"]), config["stage"].augment)
