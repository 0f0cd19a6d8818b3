"""Training checkpoints of Stage II: one file, from which any number of workers goes on.

Every worker holds all of the policy, so the first one's state is everybody's. It is copied in memory and written by a
thread, so that training waits for the copy alone. What follows from the configuration (learning rates' schedule, row
order, noise) is not stored.

Where nodes do not share their disks, each checkpoint is a file of a name that was never used before,
`checkpoints/000150-1a2b3c.pt`, since a node may still have an earlier one; it goes to the store before the one before
it is deleted, and the first worker says which one all go on from.
"""

import os
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines.fence import Fence, check
from blm.pipelines.policy_training.weights import Weights
from blm.pipelines.workers import first_says

FILE = "checkpoint.pt"
STORED = "checkpoints"


class Saver:
    """Writes checkpoints in the background, one at a time."""

    def __init__(self, folder: Path, fence: Fence | None = None) -> None:
        """fence: whose training it is; `save` or `wait` raises UserError if another driver has taken it over."""
        self._folder, self._fence = folder, fence
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._writing: Future[None] | None = None

    def save(self, weights: Weights, progress: dict[str, Any]) -> None:
        """Take down the state as it is now, and write it. Waits for the write before, and raises what that raised.

        progress: plain values.
        """
        self.wait()
        state = {
            "model": weights.policy.state_dict(),
            "average": weights.average_state(),
            "optimizers": [part.state_dict() for part in weights.optimizers.parts],
            "progress": progress,
        }
        path = _next(self._folder, progress["step"])
        self._writing = self._thread.submit(_write, path, _copied(state), self._fence)

    def wait(self) -> None:
        """Until the last checkpoint is on disk."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None


def load(folder: Path, weights: Weights) -> dict[str, Any] | None:
    """Load the checkpoint in `folder` in place and return its progress; None if there is none. Called by every worker.
    UserError if it is of another model.
    """
    path = _last(folder)
    if path is None:
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        weights.policy.load_state_dict(saved["model"])
        weights.load_average(saved["average"])
        for part, state in zip(weights.optimizers.parts, saved["optimizers"], strict=True):
            part.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
        raise UserError(
            f"the training checkpoint {path} cannot be continued from ({str(error).splitlines()[0]}); delete {folder}"
            " to train from the beginning"
        ) from error
    progress: dict[str, Any] = saved["progress"]
    weights.optimizers.seek(progress["step"])
    return progress


def _next(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` goes."""
    if not depot.has_store():
        return folder / FILE
    return folder / STORED / f"{step:06d}-{uuid.uuid4().hex[:6]}.pt"


def _last(folder: Path) -> Path | None:
    """The checkpoint that all workers go on from, on this node."""
    if not depot.has_store():
        return folder / FILE if (folder / FILE).is_file() else None
    name = None
    if dist.get_rank() == 0:
        for path in (folder / STORED).glob("[0-9]*.pt"):
            path.unlink()  # it may never have come to be in the store
        name = max((path.name for path in depot.here(folder / STORED).glob("[0-9]*.pt")), default=None)
    name = first_says(name)
    return None if name is None else depot.here(folder / STORED / name)


def _write(path: Path, state: dict[str, Any], fence: Fence | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    torch.save(state, temporary)
    check(fence)
    os.replace(temporary, path)
    depot.keep(path)
    for older in path.parent.glob("[0-9]*.pt"):
        if older != path:
            depot.drop(older)


def _copied(value: Any) -> Any:
    """The same nesting with tensors copied to the CPU, and lists and mappings made anew."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
