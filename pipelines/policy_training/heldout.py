"""Losses of the averaged weights on episodes that training never sees, with the same noise every time."""

from dataclasses import fields

import numpy as np
import torch
import torch.distributed as dist

from blm.model.policy import Policy
from blm.model.policy_batch import make_draws
from blm.model.policy_losses import PolicyLosses, means
from blm.pipelines import workers
from blm.pipelines.policy_training.data import TrainingData
from blm.pipelines.policy_training.weights import Weights
from blm.pipelines.windows.index import WindowIndex

BATCH = 128
MOST_ROWS = 4096
"""Of more held-out windows, as many evenly spaced ones."""


@torch.no_grad()
def held_out(weights: Weights, policy: Policy, data: TrainingData, device: torch.device) -> dict[str, float]:
    """`val_flow`, `val_future`, `val_copy`, `val_target_std` (see `policy_losses.means`). Called by every worker."""
    rows, places = rows_and_places(data.index, most=MOST_ROWS, otherwise=BATCH)
    draws = make_draws(policy.config, seed=0, step=0, batch=len(rows), draws=1, max_action_dim=data.max_action_dim)
    weights.swap_average()
    policy.eval()
    total: PolicyLosses | None = None
    for first in range(0, len(places), BATCH):
        part = places[first : first + BATCH]
        losses = policy(data.feed.batch(rows[part], part).to(device), draws)
        total = losses if total is None else total + losses
    policy.train()
    weights.swap_average()
    assert total is not None, "there are rows"
    found = means(_over_workers(total))
    return {f"val_{name}": round(float(value), 5) for name, value in found.items()}


def rows_and_places(index: WindowIndex, *, most: int, otherwise: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of held-out windows int64 [n], of more than `most` evenly spaced ones, and which of them are this worker's.

    Without any (too few demonstrations to keep one back), the first `otherwise` of training. Of fewer rows than workers
    every one takes all, which gives the same means.
    """
    rows = index.validation_rows if len(index.validation_rows) else index.train_rows[:otherwise]
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
    places = np.arange(len(rows))
    return rows, places[dist.get_rank() :: dist.get_world_size()] if len(rows) >= dist.get_world_size() else places


def _over_workers(losses: PolicyLosses) -> PolicyLosses:
    values = {field.name: getattr(losses, field.name) for field in fields(losses)}
    return PolicyLosses(**{n: None if v is None else workers.summed(v.double()) for n, v in values.items()})
