"""A toy network in training, on as many workers as there are: what checkpoints are tested with."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from blm.model.optim import make_optimizers
from blm.pipelines import workers
from blm.pipelines.finetune import checkpoints

ROWS = 8


class Toy(nn.Module):
    """Two layers that learn, one that is frozen, and one that is used from the fifth step on."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.frozen = nn.Linear(16, 16)
        self.late = nn.Linear(16, 16)
        self.last = nn.Linear(16, 4)
        self.frozen.requires_grad_(False)

    def forward(self, rows: torch.Tensor, late: bool) -> torch.Tensor:
        hidden = self.frozen(self.first(rows)).relu()
        return self.last(hidden + self.late(hidden) if late else hidden)


def make(parallel: workers.Parallel) -> tuple[Toy, nn.Module, list[torch.optim.Optimizer]]:
    """The same network every time."""
    torch.manual_seed(0)
    toy = Toy()
    wrapped = workers.parallelise(toy, parallel, [toy.first, toy.late])
    return toy, wrapped, make_optimizers(toy, learning_rate=0.02, weight_decay=0.1)


def train_in_turn(runs: list[tuple[str, workers.Parallel, int, str]]) -> None:
    """Several calls of `train` in one group of workers, each with a fresh network."""
    for run in runs:
        train(*run)


def train(out: str, parallel: workers.Parallel, until: int, folder: str) -> None:
    """Go on from the checkpoint in `folder`, if there is one, to step `until`; save there, and the weights in `out`."""
    toy, wrapped, optimizers = make(parallel)
    average = {name: tensor.clone() for name, tensor in checkpoints.trainable(toy).items()}
    progress: dict[str, Any] = {"step": 0, "losses": []}
    if found := checkpoints.last(Path(folder)):
        checkpoints.load(found[0], toy, optimizers, average)
        progress = found[1]
    rank, world = dist.get_rank(), dist.get_world_size()
    for step in range(progress["step"], until):
        rows = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(step))[rank::world]
        loss = wrapped(rows, step >= 4).square().sum() * world / ROWS
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        for name, tensor in checkpoints.trainable(toy).items():
            average[name].lerp_(tensor, 0.3)
        progress["losses"].append(float(loss.detach()) if world == 1 else 0.0)
    progress["step"] = until
    checkpoints.save(Path(folder), until, progress, toy, optimizers, average)
    whole = {
        name: workers.whole_tensor(tensor).detach() for name, tensor in (average | dict(toy.named_parameters())).items()
    }
    means = {f"average.{name}": workers.whole_tensor(tensor).detach() for name, tensor in average.items()}
    if rank == 0:
        torch.save(whole | means, out)
