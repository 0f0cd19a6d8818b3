"""One optimisation step over several micro batches and workers: gradients of a mean over the whole step.

Every micro batch gives *sums* of losses. They are divided by what the whole step counts, over all workers, which
every worker knows beforehand; so the number of workers and of micro batches changes nothing but the order in which
floats are added. A step whose gradients are not finite is skipped.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from blm.model.errors import UserError
from blm.model.optim import ScheduledOptimizers
from blm.pipelines.workers import whole_tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What a step came to."""

    sums: Tensor
    """float64 [losses]: the sum of each loss over the whole step, on the CPU."""
    norm: float
    """Norm of the whole gradient before clipping."""
    finite: bool
    """False: the weights are what they were."""


def take_step(
    wrapped: nn.Module,
    optimizers: ScheduledOptimizers,
    losses: Iterable[Callable[[], tuple[Tensor, ...]]],
    scales: tuple[float, ...],
    *,
    clip_norm: float,
) -> Taken:
    """Run forward and backward of each micro batch, then update the weights.

    losses: a function for each micro batch that runs `wrapped` and returns the sum of each loss; every worker has
    equally many. scales: what each sum is multiplied by, to give the step's loss when added over micro batches and
    workers.
    """
    optimizers.zero_grad()
    world = dist.get_world_size()  # replicas average gradients over workers, and a sum is what is wanted
    micro, sums = list(losses), None
    for number, run in enumerate(micro):
        with _synchronised(wrapped, last=number + 1 == len(micro)):
            parts = run()
            loss = sum((part * (scale * world) for part, scale in zip(parts, scales, strict=True)), torch.zeros(()))
            loss.backward()
        detached = torch.stack([part.detach().double() for part in parts])
        sums = detached if sums is None else sums + detached
    assert sums is not None
    dist.all_reduce(sums)
    norm = whole_tensor(nn.utils.clip_grad_norm_(_learning(wrapped), clip_norm))
    finite = bool(torch.isfinite(norm))
    if finite:
        optimizers.step()
    else:
        optimizers.skip()
    return Taken(sums=sums.cpu(), norm=float(norm), finite=finite)


def check_skipped(skipped: int, limit: int, step: int) -> None:
    """UserError once more than `limit` steps were skipped."""
    if skipped > limit:
        raise UserError(
            f"{skipped} steps up to step {step} had gradients that are not finite; lower stage1.learning_rate or"
            " stage1.clip_norm, or raise stage1.max_skipped, delete the stage's train folder and run it again"
        )


def _learning(wrapped: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in wrapped.parameters() if parameter.requires_grad]


@contextmanager
def _synchronised(wrapped: nn.Module, *, last: bool) -> Iterator[None]:
    """Gradients travel between workers in the last micro batch alone."""
    unsynchronised: AbstractContextManager[Any] = nullcontext()
    if isinstance(wrapped, nn.parallel.DistributedDataParallel) and not last:
        unsynchronised = wrapped.no_sync()
    if hasattr(wrapped, "set_requires_gradient_sync"):
        wrapped.set_requires_gradient_sync(last)
    with unsynchronised:
        yield
