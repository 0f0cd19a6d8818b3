"""Training checkpoints of Stage II: one file, from which any number of workers goes on.

Every worker holds all of the policy, so the first one's state is everybody's. It is copied in memory and written by a
thread, so that training waits for the copy alone. What follows from the configuration (learning rates' schedule, row
order, noise) is not stored.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blm.model.errors import UserError
from blm.pipelines.policy_training.weights import Weights

FILE = "checkpoint.pt"


class Saver:
    """Writes checkpoints in the background, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
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
        self._writing = self._thread.submit(_write, self._path, _copied(state))

    def wait(self) -> None:
        """Until the last checkpoint is on disk."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None


def load(folder: Path, weights: Weights) -> dict[str, Any] | None:
    """Load the checkpoint in `folder` in place and return its progress; None if there is none. UserError if it is of
    another model.
    """
    path = folder / FILE
    if not path.is_file():
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


def _write(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _copied(value: Any) -> Any:
    """The same nesting with tensors copied to the CPU, and lists and mappings made anew."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
