"""What a training worker of the baseline reads: windows with pictures, and the contract they make."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blm.cluster import depot
from blm.model.diffusion_encoder import vocabulary_of
from blm.model.diffusion_network import DiffusionBatch, DiffusionDraws, make_draws
from blm.model.diffusion_policy import DiffusionContract
from blm.pipelines.baseline import BaselineConfig
from blm.pipelines.diffusion_baseline.pictures import DecodedFeed
from blm.pipelines.windows.dataset import RobotDataset
from blm.pipelines.windows.index import WindowIndex
from blm.pipelines.windows.picture_feed import PictureBatch, PictureFeed
from blm.pipelines.windows.statistics import statistics_of
from blm.pipelines.windows.store import open_windows


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What a worker reads, and the contract it makes."""

    index: WindowIndex
    feed: PictureFeed
    contract: DiffusionContract


def open_data(config: dict[str, Any]) -> Data:
    """Windows, feed and contract of one model. UserError if something is damaged."""
    stage: BaselineConfig = config["stage"]
    paths = {robot: depot.here(Path(path)) for robot, path in config["datasets"].items()}
    windows = open_windows(depot.here(Path(config["windows"])), paths)
    cells, cameras = tuple(config["cells"]), tuple(config["cameras"])
    statistics = statistics_of(windows, cells)
    index = WindowIndex(windows, cells)
    decoded = {robot: depot.here(Path(path)) for robot, path in config["decoded"].items()}
    datasets = {robot: Path(path) for robot, path in config["datasets"].items()}  # tasks on other nodes find their own
    feed = (
        DecodedFeed(index, statistics, paths, cameras, decoded)
        if decoded
        else PictureFeed(index, statistics, datasets, cameras, tasks=config["tasks"])
    )
    opened = [RobotDataset.open(path) for path in paths.values()]
    told = {episode.instruction for dataset in opened for episode in dataset.episodes if episode.group in cells}
    contract = DiffusionContract(
        policy=stage.policy,
        layouts=tuple(robot.layout for robot in windows),
        cameras=cameras,
        image_px=config["image_px"],
        vocabulary=vocabulary_of(told),
        statistics=statistics,
        provenance=config["provenance"],
    )
    return Data(index=index, feed=feed, contract=contract)


def on_device(batch: PictureBatch, device: torch.device) -> DiffusionBatch:
    """What the network wants of a batch of the feed."""
    groups = [group.each(lambda tensor: tensor.to(device)) for group in batch.groups]
    pictures = torch.as_tensor(batch.pictures).to(device)
    return DiffusionBatch(
        groups=groups, pictures=pictures, instructions=batch.instructions, place=torch.as_tensor(batch.place)
    )


def draws_of(data: Data, *, seed: int, step: int, batch: int, draws: int) -> DiffusionDraws:
    """All randomness of a step."""
    contract = data.contract
    return make_draws(
        contract.policy,
        seed=seed,
        step=step,
        batch=batch,
        draws=draws,
        cameras=len(contract.cameras),
        max_action_dim=max(layout.action_dim for layout in contract.layouts),
    )
