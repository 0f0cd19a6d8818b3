"""Optimiser and learning-rate schedule shared by both stages."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

DECAYED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def make_optimizer(
    module: nn.Module, *, learning_rate: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.AdamW:
    """Fused AdamW (three times faster than the looped one on CPU). Decay is on the weights of linear and convolution
    layers alone, never on norms, biases, embeddings, nor on learned tokens and positions.
    """
    matrices = {id(m.weight) for m in module.modules() if isinstance(m, DECAYED)}
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}  # perhaps tied
    trainable = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trainable if id(p) in matrices - embeddings]
    others = [p for p in trainable if id(p) not in matrices - embeddings]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas, fused=True)


def cosine_schedule(optimizer: torch.optim.Optimizer, *, steps: int, warmup: int, floor: float) -> LambdaLR:
    """Linear warm-up over `warmup` steps, then cosine down to `floor` times the peak at `steps`."""

    def factor(step: int) -> float:
        rise = min((step + 1) / max(warmup, 1), 1.0)
        fall = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
        return rise * fall

    return LambdaLR(optimizer, factor)
