"""The gate between the stages: can object positions be read out of the intents by a linear map?

A policy cannot move what its conditioning cannot see. Ridge regression from all intent tokens of a frame to the
true positions, fitted on some episodes and measured on others, says in centimetres how well the frozen MLLM sees,
and costs seconds. The penalty is chosen on episodes of its own, so the error on the others is not flattered.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blm.model.errors import UserError

RIDGE = (1e-4, 1e-3, 1e-2, 1e-1)  # relative to the mean of the kernel's diagonal
MAX_FRAMES = 3000
"""Frames of a cell that are worth probing; more cost memory and tell nothing new."""
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


def probe(cell: str, features: Tensor, positions_m: np.ndarray, episodes: np.ndarray) -> ProbeResult:
    """features float32 [n, F]; positions_m [n, 6] object and goal; episodes [n] says which frames belong together.

    Every fifth episode measures, every fifth of the others chooses the penalty. UserError for too few episodes.
    """
    names = np.unique(episodes)
    if len(names) < MIN_EPISODES:
        raise UserError(f"{cell} has {len(names)} episodes; the probe needs {MIN_EPISODES} or more: collect more")
    measuring = names[::5]
    fitting = np.setdiff1d(names, measuring)
    test, choice = (torch.from_numpy(np.isin(episodes, part)) for part in (measuring, fitting[::5]))
    x = features - features[~test].mean(dim=0)
    x /= x[~test].std(dim=0) + 1e-3
    kernel = (x @ x.T).double() / x.shape[1]
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


def _predict(kernel: Tensor, y: Tensor, fit: Tensor, ask: Tensor, ridge: float) -> Tensor:
    """Kernel ridge regression fitted on the frames `fit` (bool [n]), at the frames `ask`."""
    inner = kernel[fit][:, fit]
    penalty = ridge * inner.diagonal().mean() * torch.eye(len(inner), dtype=inner.dtype)
    mean = y[fit].mean(dim=0)
    return kernel[ask][:, fit] @ torch.linalg.solve(inner + penalty, y[fit] - mean) + mean


def _errors_cm(predicted: Tensor, truth: Tensor) -> tuple[float, float]:
    distance = (predicted - truth).unflatten(-1, (2, 3)).norm(dim=-1).mean(0)
    return round(float(distance[0]), 3), round(float(distance[1]), 3)
