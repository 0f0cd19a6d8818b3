"""What a training worker of the baseline does, for one model: steps on pictures (`policy_training/course.py` has the
loop itself, which is Stage II's)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from blm.cluster import depot
from blm.model.diffusion_network import DiffusionNetwork
from blm.model.diffusion_policy import write_diffusion_policy
from blm.pipelines import workers
from blm.pipelines.baseline import BaselineConfig
from blm.pipelines.diffusion_baseline.data import Data, draws_of, on_device, open_data
from blm.pipelines.diffusion_baseline.heldout import held_out
from blm.pipelines.policy_training.course import follow, share_of
from blm.pipelines.policy_training.weights import Weights
from blm.pipelines.windows.index import WindowIndex
from blm.pipelines.windows.picture_feed import PictureBatch


def train(config: dict[str, Any]) -> None:
    """As a Ray Train worker: train one model, to `config["model"]` and `config["folder"]`."""
    _, _, device = workers.prepare(config)
    run(config, device)


def run(config: dict[str, Any], device: torch.device) -> None:
    """`train` in any process of a process group. Does nothing if the model is finished."""
    follow(config, device, _prepare)


def _prepare(config: dict[str, Any], device: torch.device) -> "_DiffusionLearner":
    """Data, and a fresh network on its device."""
    stage: BaselineConfig = config["stage"]
    data = open_data(config)
    torch.manual_seed(config["seed"])
    network = data.contract.build().to(device)
    weights = Weights(
        network,
        learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay,
        steps=stage.steps,
        warmup=stage.warmup,
    )
    return _DiffusionLearner(
        config=config, stage=stage, data=data, network=network.train(), weights=weights, device=device
    )


@dataclass(kw_only=True, slots=True)
class _DiffusionLearner:
    """The network, and what a worker trains it on."""

    config: dict[str, Any]
    stage: BaselineConfig
    data: Data
    network: DiffusionNetwork
    weights: Weights
    device: torch.device
    name: str = "baseline"
    sums: int = 2

    @property
    def index(self) -> WindowIndex:
        """The windows."""
        return self.data.index

    def batches(self, first: int) -> Iterator[PictureBatch]:
        """As `Learner.batches`."""
        return self.data.feed.steps(share_of(self.index, self.stage, self.config["seed"]), first, self.stage.steps)

    def step(self, step: int, batch: PictureBatch, autocast: AbstractContextManager[object]) -> Tensor:
        """As `Learner.step`."""
        stage = self.stage
        draws = draws_of(self.data, seed=self.config["seed"], step=step, batch=stage.batch, draws=stage.draws)
        with autocast:
            error, count = self.network(on_device(batch, self.device), draws)
        total = workers.summed(count.detach().double())
        self.weights.descend(error / total.float(), clip_norm=stage.clip_norm)
        return torch.stack([error.detach().double(), count.double()])

    def point(self, sums: list[float]) -> dict[str, float]:
        """As `Learner.point`."""
        return {"loss": round(sums[0] / sums[1], 5)}

    def told(self, point: dict[str, float]) -> str:
        """As `Learner.told`."""
        return f"loss {point['loss']:.4f}"

    def held_out(self) -> dict[str, float]:
        """As `Learner.held_out`."""
        return held_out(self.weights, self.network, self.data, self.device)

    def blame(self, step: int) -> None:
        """Of pictures and demonstrations that were checked when they were read, none is."""

    def after(self, step: int, *, last: bool) -> None:
        """In the end, the averaged weights as a checkpoint that can act."""
        if last and dist.get_rank() == 0:
            state = {name: tensor.detach().cpu() for name, tensor in self.weights.average_state().items()}
            model = depot.place(Path(self.config["model"]))
            write_diffusion_policy(model, self.data.contract, state)
            depot.keep(model)
