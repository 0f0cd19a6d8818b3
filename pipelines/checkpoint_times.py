"""When a training writes a checkpoint: by the clock, and in time when one of its nodes was told to go.

A spot instance that is to be taken away, or a pod that is moved, is announced a minute or two before
(`blm.cluster.leave`). From then on checkpoints come every `HURRY_S`, so that little is lost with the node.

Whoever starts a training learns here, too, whether it saved anything before it was lost: one that did gets another
attempt.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from blm.cluster import nodes, ray_corners
from blm.cluster.ray_runtime import is_up

HURRY_S = 5.0
"""Seconds between checkpoints while a node of the training is about to go."""
LOOK_EVERY_S = 2.0
"""How often a worker asks whether its node is."""


@dataclass(slots=True)
class _Worker:
    """What this process knows of its training."""

    training: Path | None = None
    saving: bool = False
    looked_s: float = float("-inf")
    leaving: bool = False


_worker = _Worker()


def begin(training: Path) -> None:
    """This process is a worker of a training from now on, named as whoever started it names it."""
    global _worker
    _worker = _Worker(training=training)


def save_due(since_s: float, every_s: float) -> bool:
    """Whether to write a checkpoint now: the same on every rank, since saving is collective.

    since_s: since the last one, or since the beginning. every_s: how often, by rank 0's clock.
    """
    if _worker.saving:  # a checkpoint was due the last time, and here we are
        _note()
    due = since_s > every_s if dist.get_rank() == 0 else False
    hurry = since_s > min(every_s, HURRY_S) and _leaving()
    flag = torch.tensor(int(due or hurry), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    _worker.saving = bool(flag)
    return _worker.saving


def _leaving() -> bool:
    now_s = time.monotonic()
    if not _worker.leaving and now_s - _worker.looked_s > LOOK_EVERY_S:
        _worker.looked_s, _worker.leaving = now_s, nodes.leaving()
    return _worker.leaving


def _note() -> None:
    """Leave word in the cluster that this training has written a checkpoint."""
    if _worker.training is not None and dist.get_rank() == 0 and is_up():
        ray_corners.leave_word(_key(_worker.training))


def saved(training: Path) -> bool:
    """Whether a training has written a checkpoint since `forget`. Ray must be up, as for `forget`."""
    return ray_corners.has_word(_key(training))


def forget(training: Path) -> None:
    """Take down the word that a training has left."""
    ray_corners.remove_word(_key(training))


def _key(training: Path) -> bytes:
    return f"training {training}".encode()
