"""The gate between the stages: can object positions be read out of the intents by a linear map?

A policy cannot move what its conditioning cannot see. Ridge regression from all intent tokens of a frame to the
true positions, fitted on some episodes and measured on others, says in centimetres how well the frozen MLLM sees,
and costs seconds.
"""

from dataclasses import dataclass

import numpy as np
import torch

RIDGE = (1e-3, 1e-2, 1e-1)  # relative to the mean eigenvalue of the kernel; the best on the held-out part is reported
MAX_FRAMES = 3000


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


def probe(cell: str, features: torch.Tensor, positions_m: np.ndarray, episodes: np.ndarray) -> ProbeResult:
    """features [n, F]; positions_m [n, 6] object and goal; episodes [n] says which frames belong together."""
    keep = np.linspace(0, len(features) - 1, min(len(features), MAX_FRAMES)).astype(int)
    x, y, episodes = features[keep].double(), torch.from_numpy(positions_m[keep]).double() * 100, episodes[keep]
    test = torch.from_numpy(np.isin(episodes, np.unique(episodes)[::5]))
    x = (x - x[~test].mean(0)) / (x[~test].std(0) + 1e-3)
    mean = y[~test].mean(0)
    kernel = x[~test] @ x[~test].T / x.shape[1]
    cross = x[test] @ x[~test].T / x.shape[1]
    best = None
    for ridge in RIDGE:
        penalty = ridge * kernel.diagonal().mean() * torch.eye(len(kernel), dtype=kernel.dtype)
        predicted = cross @ torch.linalg.solve(kernel + penalty, y[~test] - mean) + mean
        errors = _errors_cm(predicted, y[test])
        if best is None or sum(errors) < sum(best):
            best = errors
    assert best is not None
    spread = _errors_cm(mean.expand(int(test.sum()), -1), y[test])
    return ProbeResult(
        cell=cell,
        object_cm=best[0],
        goal_cm=best[1],
        object_spread_cm=spread[0],
        goal_spread_cm=spread[1],
        frames=int(test.sum()),
    )


def _errors_cm(predicted: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    distance = (predicted - truth).unflatten(-1, (2, 3)).norm(dim=-1).mean(0)
    return round(float(distance[0]), 3), round(float(distance[1]), 3)
