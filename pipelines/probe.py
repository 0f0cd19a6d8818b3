"""The gate between the stages: can object positions be read out of the intents by a linear map?

A policy cannot move what its conditioning cannot see. Ridge regression from all intent tokens of a frame to the
true positions, fitted on some episodes and measured on others, says in centimetres how well the frozen MLLM sees,
and costs seconds. The penalty is chosen on episodes of its own, so the error on the others is not flattered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blm.model.errors import UserError
from blm.pipelines.intent_cache import IntentCache
from blm.pipelines.windows.dataset import RobotDataset

POSITIONS = "privileged.object_positions"
"""Column with the true positions (m) of tool, object and goal."""

RIDGE = (1e-4, 1e-3, 1e-2, 1e-1)  # relative to the mean of the kernel's diagonal
MAX_FRAMES = 3000
"""Frames of a cell that are worth probing; more cost memory and tell nothing new."""
_VALUES_AT_ONCE = 2**24
MIN_EPISODES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """Mean Euclidean errors in cm on held-out episodes."""

    cell: str
    object_cm: float
    goal_cm: float
    object_spread_cm: float
    """The error of always answering the mean position: what a blind guess gets."""
    goal_spread_cm: float
    frames: int
    """Held-out frames."""


def probe_dataset(dataset: RobotDataset, episodes: Sequence[int], cache: IntentCache) -> list[ProbeResult]:
    """Every cell of a dataset; none of one that does not say where its objects are.

    episodes: places of those that the cache holds, in its order. UserError as `probe`.
    """
    if not dataset.has(POSITIONS):
        return []
    held = [dataset.episodes[i] for i in episodes]
    starts = np.cumsum([0, *(episode.length for episode in held)])
    results = []
    for cell in sorted({episode.group for episode in held}):
        positions, rows, owners = [], [], []
        for first, episode in zip(starts, held, strict=False):
            if episode.group == cell:
                positions.append(dataset.values(episode, POSITIONS)[:, 3:])
                rows.append(np.arange(first, first + episode.length))
                owners.append(np.full(episode.length, episode.index))
        index, truth, owner = np.concatenate(rows), np.concatenate(positions), np.concatenate(owners)
        some = np.linspace(0, len(index) - 1, min(len(index), MAX_FRAMES)).astype(int)
        states, _ = cache.rows(index[some])  # zeros where padded
        results.append(probe(cell, states, truth[some], owner[some]))
    return results


def probe(cell: str, states: Tensor, positions_m: np.ndarray, episodes: np.ndarray) -> ProbeResult:
    """states [n, L, d] (zeros where padded) of any number format; positions_m [n, 6] object and goal; episodes [n] says
    which frames belong together.

    Every fifth episode measures, every fifth of the others chooses the penalty. UserError for too few episodes.
    """
    names = np.unique(episodes)
    if len(names) < MIN_EPISODES:
        raise UserError(f"{cell} has {len(names)} episodes; the probe needs {MIN_EPISODES} or more: collect more")
    measuring = names[::5]
    fitting = np.setdiff1d(names, measuring)
    test, choice = (torch.from_numpy(np.isin(episodes, part)) for part in (measuring, fitting[::5]))
    kernel = _kernel(states, ~test)
    y = torch.from_numpy(positions_m).double() * 100
    trials = [sum(_errors_cm(_predict(kernel, y, ~test & ~choice, choice, ridge), y[choice])) for ridge in RIDGE]
    best = _errors_cm(_predict(kernel, y, ~test, test, RIDGE[int(np.argmin(trials))]), y[test])
    spread = _errors_cm(y[~test].mean(dim=0).expand(int(test.sum()), -1), y[test])
    return ProbeResult(
        cell=cell,
        object_cm=best[0],
        goal_cm=best[1],
        object_spread_cm=spread[0],
        goal_spread_cm=spread[1],
        frames=int(test.sum()),
    )


def _kernel(states: Tensor, fit: Tensor) -> Tensor:
    """float64 [n, n]: mean product of the standardised features of every two frames, some tokens at a time."""
    n, tokens, width = states.shape
    kernel = torch.zeros(n, n)
    at_once = max(_VALUES_AT_ONCE // (n * width), 1)
    for first in range(0, tokens, at_once):
        x = states[:, first : first + at_once].float().flatten(1)
        x = x - x[fit].mean(dim=0)
        x /= x[fit].std(dim=0) + 1e-3
        kernel.addmm_(x, x.T)
    return kernel.double() / (tokens * width)


def _predict(kernel: Tensor, y: Tensor, fit: Tensor, ask: Tensor, ridge: float) -> Tensor:
    """Kernel ridge regression fitted on the frames `fit` (bool [n]), at the frames `ask`."""
    inner = kernel[fit][:, fit]
    penalty = ridge * inner.diagonal().mean() * torch.eye(len(inner), dtype=inner.dtype)
    mean = y[fit].mean(dim=0)
    return kernel[ask][:, fit] @ torch.linalg.solve(inner + penalty, y[fit] - mean) + mean


def _errors_cm(predicted: Tensor, truth: Tensor) -> tuple[float, float]:
    distance = (predicted - truth).unflatten(-1, (2, 3)).norm(dim=-1).mean(0)
    return round(float(distance[0]), 3), round(float(distance[1]), 3)
