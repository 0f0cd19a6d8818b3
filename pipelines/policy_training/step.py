"""One optimisation step of the policy over all workers: gradients of a mean over the whole step's rows.

Each worker computes *sums* of losses over its rows, and how much it summed. Divided by the counts of the whole step,
and with gradients added up over workers, the number of workers changes nothing but the order in which floats are added.
"""

from contextlib import AbstractContextManager
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from blm.model.policy import Policy
from blm.model.policy_batch import PolicyBatch, PolicyDraws
from blm.model.policy_losses import PolicyLosses, combine
from blm.pipelines.policy_training.weights import Weights


def take_step(
    weights: Weights,
    policy: Policy,
    batch: PolicyBatch,
    draws: PolicyDraws,
    autocast: AbstractContextManager[object],
    *,
    clip_norm: float,
) -> Tensor:
    """Forward, backward and update. Returns this worker's `sums_of` its losses.

    `weights` are those of `policy`. Called by every worker, each with its own rows and the whole step's draws.
    """
    with autocast:
        losses = policy(batch, draws)
    loss = combine(_of_all_workers(losses), policy.config)
    weights.descend(loss, clip_norm=clip_norm)
    policy.update_target()
    return sums_of(losses)


def sums_of(losses: PolicyLosses) -> Tensor:
    """Sum and count of the flow loss, sum and count of the future loss: float64 [4]."""
    parts = (losses.flow_sum, losses.flow_count, losses.future_sum, losses.future_count)
    return torch.stack([part.detach().double() for part in parts])


def _of_all_workers(losses: PolicyLosses) -> PolicyLosses:
    """The losses with the counts of the whole step; their sums stay this worker's, whose gradients are added up."""
    if dist.get_world_size() == 1:
        return losses
    counts = torch.stack([losses.flow_count.detach().double(), losses.future_count.detach().double()])
    dist.all_reduce(counts)
    flow_count, future_count = counts.float()
    return replace(losses, flow_count=flow_count, future_count=future_count)


def compile_blocks(policy: Policy, *, backend: str = "inductor") -> None:
    """Compile the blocks of bridge and transformer one by one; names of parameters stay. For GPUs: on CPUs the minute
    it takes does not come back in a short training.
    """
    for block in [*policy.bridge.layers, *policy.dit.blocks]:
        block.compile(backend=backend)
