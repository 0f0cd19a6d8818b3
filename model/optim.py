"""Optimisers and the learning-rate schedule shared by both stages.

Muon (Jordan et al. 2024, `torch.optim.Muon`) orthogonalises the momentum of hidden matrices; models made from scratch
learn in about half the steps it takes AdamW (`docs/experiments.md`). Everything else, embeddings and heads among it,
stays with AdamW, as Muon's authors advise. `adamw8bit` keeps AdamW's moments in eight bits: a quarter of the memory.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from blm.model.errors import UserError
from blm.model.options import OptimizerName

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

    def skip(self) -> None:
        """A step whose gradients were not finite: no update, but the learning rates move on."""
        self.zero_grad()
        for schedule in self._schedules:
            self._seek(schedule, schedule.last_epoch + 1)

    def seek(self, step: int) -> None:
        """Schedules and learning rates as they are after `step` steps."""
        for schedule in self._schedules:
            self._seek(schedule, step)

    @staticmethod
    def _seek(schedule: LambdaLR, step: int) -> None:
        schedule.last_epoch = step
        factors = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, base, factor in factors:
            rate = base * factor(step)
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

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


def freeze(module: nn.Module, rates: Mapping[str, float]) -> None:
    """Take the parts whose rate is 0 out of training. `rates` as for `make_optimizers`; what is frozen stays so."""
    parts = _part_of_parameters(module)
    for parameter in module.parameters():
        if rates.get(parts.get(id(parameter), ""), 1.0) == 0:
            parameter.requires_grad_(False)


def make_optimizers(
    module: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    kind: OptimizerName = "adamw",
    rates: Mapping[str, float] | None = None,
    muon: Sequence[nn.Module] = (),
    betas: tuple[float, float] = (0.9, 0.95),
) -> list[torch.optim.Optimizer]:
    """Fused AdamW (three times faster than the looped one on CPU) for `module`, and Muon for the weight matrices of
    linear layers inside the modules `muon`, if any.

    kind: `muon` takes the transformer blocks of `module.mllm`; `adamw8bit` needs the extra `lowbit`.
    rates: learning rates of the parts `vision`, `merger`, `language` of `module.mllm` and of its `head`, in units of
    the common one; 0 leaves the part out.

    Decay is on the weights of linear and convolution layers alone, never on norms, biases, embeddings, nor on learned
    tokens and positions.
    """
    rates = rates or {}
    if kind == "muon" and not muon:
        from blm.model.families import parts_of  # brings transformers, which policies do without

        mllm = parts_of(module.mllm)
        muon = [*mllm.vision_blocks, *mllm.language_blocks]
    parts = _part_of_parameters(module) if rates else {}
    matrices = {id(m.weight) for m in module.modules() if isinstance(m, DECAYED)}
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}  # perhaps tied
    hidden = {id(m.weight) for part in muon for m in part.modules() if isinstance(m, nn.Linear)} - embeddings
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        rate = rates.get(parts.get(id(parameter), ""), 1.0)
        if parameter.requires_grad and rate > 0:
            orthogonal = id(parameter) in hidden
            decay = weight_decay if orthogonal or id(parameter) in matrices - embeddings else 0.0
            groups.setdefault((orthogonal, decay, rate), []).append(parameter)
    plain = [
        {"params": group, "weight_decay": decay, "lr": learning_rate * rate}
        for (orthogonal, decay, rate), group in groups.items()
        if not orthogonal
    ]
    found: list[torch.optim.Optimizer] = [_adamw(plain, learning_rate, betas, kind)] if plain else []
    matrices_of_blocks = [
        {
            "params": group,
            "weight_decay": decay / MUON_RATE,  # the decay of a step is its product with the rate
            "lr": MUON_RATE * learning_rate * rate,
        }
        for (orthogonal, decay, rate), group in groups.items()
        if orthogonal
    ]
    if matrices_of_blocks:
        found.append(torch.optim.Muon(matrices_of_blocks, adjust_lr_fn="match_rms_adamw"))
    if not found:
        raise UserError(
            "nothing is left to train; set one of the learning rates of vision, merger and language above 0"
        )
    return found


def _adamw(
    groups: list[dict[str, Any]], learning_rate: float, betas: tuple[float, float], kind: OptimizerName
) -> torch.optim.Optimizer:
    if kind != "adamw8bit":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise UserError("optimizer adamw8bit needs torchao; install the extra `lowbit` or choose adamw") from error
    return AdamW8bit(groups, lr=learning_rate, betas=betas)


def _part_of_parameters(module: nn.Module) -> dict[int, str]:
    """Which of vision, merger, language and head each parameter belongs to, by identity; empty without an MLLM."""
    if not hasattr(module, "mllm"):
        return {}
    from blm.model.families import parts_of

    parts = parts_of(module.mllm)
    found = {id(p): "language" for p in module.mllm.parameters()}
    found |= {id(p): "vision" for p in parts.vision.parameters()}
    found |= {id(p): "merger" for merger in parts.mergers for p in merger.parameters()}
    head = getattr(module, "head", None)
    return found | ({id(p): "head" for p in head.parameters()} if head is not None else {})


def cosine_schedule(optimizer: torch.optim.Optimizer, *, steps: int, warmup: int, floor: float) -> LambdaLR:
    """Linear warm-up over `warmup` steps, then cosine down to `floor` times the peak at `steps`."""

    def factor(step: int) -> float:
        rise = min((step + 1) / max(warmup, 1), 1.0)
        fall = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
        return rise * fall

    return LambdaLR(optimizer, factor)
