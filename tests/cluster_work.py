"""Work for the nodes of `cluster_nodes.py`: a toy training, and pieces of work that take a moment."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from blm.pipelines import checkpoint_times, workers
from blm.pipelines.checkpoint_times import save_due

STEPS = 200
EASY_STEPS = 60
EVERY_S = 0.5
ROWS = 4
SEED = 5


def fresh() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A network that is the same everywhere, and its optimiser."""
    torch.manual_seed(SEED)
    module = torch.nn.Linear(6, 3)
    return module, torch.optim.AdamW(module.parameters(), lr=1e-3)


def loss_of(module: torch.nn.Module, step: int, rank: int, world: int) -> torch.Tensor:
    """Of this worker's rows of a step, which follow from (seed, step): so that all workers' losses have the mean of
    all rows as their mean."""
    rows = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(1000 * SEED + step))
    return module(rows[rank::world]).square().mean()


def expected() -> dict[str, torch.Tensor]:
    """What training leads to, undisturbed, in this process alone."""
    module, optimizer = fresh()
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(module, step, 0, 1).backward()
        optimizer.step()
    return module.state_dict()


def paced_training(config: dict[str, Any]) -> None:
    """As a Ray Train worker: `STEPS` steps, slowly until a file `go` is there. The clock makes no checkpoint before
    the first one is there: that one is made in haste."""
    checkpoint_times.HURRY_S = 1.0
    rank, world, _ = workers.prepare(config)
    folder = Path(config["folder"])
    module, optimizer = fresh()
    saved = workers.load_checkpoint(folder / "checkpoint.pt")
    first = 0
    if saved is not None:
        first = int(saved["step"])
        workers.load_full_state(module, [optimizer], saved["state"])
    wrapped = workers.parallelise(module, "ddp", [])
    last_save = time.monotonic()
    for step in range(first, STEPS):
        optimizer.zero_grad()
        loss_of(wrapped, step, rank, world).backward()
        optimizer.step()
        if rank == 0:
            with (folder / "log").open("a") as log:
                log.write(json.dumps({"step": step, "world": world}) + "\n")
        every_s = EVERY_S if (folder / "checkpoint.pt").exists() else 3600.0
        if save_due(time.monotonic() - last_save, every_s) or step + 1 == STEPS:
            state = {"step": step + 1, "state": workers.full_state(wrapped, [optimizer])}
            workers.save_checkpoint(folder / "checkpoint.pt", state)
            last_save = time.monotonic()
        if not (folder / "go").exists():
            time.sleep(0.1 if step < EASY_STEPS else 1.0)  # on a busy machine a node's coming takes minutes
    dist.barrier()


def train_alone(config: dict[str, Any], _: torch.device) -> None:
    """As one of several models: two seconds of work."""
    folder = Path(config["folder"])
    folder.mkdir(exist_ok=True)
    (folder / f"began-{os.getpid()}").touch()
    time.sleep(2)
    (folder / "done").touch()


class Doubler:
    """Worker of Ray Data."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        (Path(item["folder"]) / f"item-{item['number']}").touch()
        time.sleep(0.4)
        return {"double": 2 * item["number"]}


class Sleeper:
    """Actor of a pool."""

    def work(self, number: int) -> int:
        time.sleep(0.3)
        return 2 * number
