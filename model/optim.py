"""Optimisers and the learning-rate schedule shared by both stages.

Muon (Jordan et al. 2024, `torch.optim.Muon`) orthogonalises the momentum of hidden matrices; models made from scratch
learn in about half the steps it takes AdamW (`docs/experiments.md`). Everything else, embeddings and heads among it,
stays with AdamW, as Muon's authors advise.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

DECAYED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
MUON_RATE = 3.0
"""Muon's learning rate, in units of AdamW's: its updates are scaled to the same root mean square, and it bears more."""


class ScheduledOptimizers:
    """One or two optimisers that step together, each after the same warm-up and cosine."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer], *, steps: int, warmup: int, floor: float) -> None:
        self.parts = list(parts)
        self._schedules = [cosine_schedule(part, steps=steps, warmup=warmup, floor=floor) for part in self.parts]

    def step(self) -> None:
        """Update the weights, then the learning rates."""
        for part, schedule in zip(self.parts, self._schedules, strict=True):
            part.step()
            schedule.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def schedule_state(self) -> list[dict[str, Any]]:
        """Where the schedules are; the optimisers' own state is not part of it."""
        return [schedule.state_dict() for schedule in self._schedules]

    def load_schedule_state(self, state: Sequence[dict[str, Any]]) -> None:
        """Go on where `schedule_state` was."""
        for schedule, saved in zip(self._schedules, state, strict=True):
            schedule.load_state_dict(saved)


def make_optimizers(
    module: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    muon: Sequence[nn.Module] = (),
    betas: tuple[float, float] = (0.9, 0.95),
) -> list[torch.optim.Optimizer]:
    """Fused AdamW (three times faster than the looped one on CPU) for `module`, and Muon for the weight matrices of
    linear layers inside the modules `muon`, if any.

    Decay is on the weights of linear and convolution layers alone, never on norms, biases, embeddings, nor on learned
    tokens and positions.
    """
    matrices = {id(m.weight) for m in module.modules() if isinstance(m, DECAYED)}
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}  # perhaps tied
    hidden = {id(m.weight) for part in muon for m in part.modules() if isinstance(m, nn.Linear)} - embeddings
    trainable = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trainable if id(p) in matrices - embeddings - hidden]
    others = [p for p in trainable if id(p) not in (matrices - embeddings) | hidden]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    parts: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas, fused=True)
    ]
    if orthogonal := [p for p in trainable if id(p) in hidden]:
        parts.append(
            torch.optim.Muon(
                orthogonal,
                lr=MUON_RATE * learning_rate,
                weight_decay=weight_decay / MUON_RATE,  # the decay of a step is their product
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return parts


def cosine_schedule(optimizer: torch.optim.Optimizer, *, steps: int, warmup: int, floor: float) -> LambdaLR:
    """Linear warm-up over `warmup` steps, then cosine down to `floor` times the peak at `steps`."""

    def factor(step: int) -> float:
        rise = min((step + 1) / max(warmup, 1), 1.0)
        fall = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
        return rise * fall

    return LambdaLR(optimizer, factor)
