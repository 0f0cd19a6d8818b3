"""The conditional U-Net of Diffusion Policy: convolutions along the chunk, each block told what is seen and how noisy
its input is (Chi et al., arXiv 2303.04137, after Janner et al., arXiv 2205.09991).
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from blm.model.diffusion_encoder import norm


class ConditionedBlock(nn.Module):
    """Two convolutions beside a shortcut, scaled and shifted by the condition in between. [n, i, T] -> [n, o, T]."""

    def __init__(self, width_in: int, width_out: int, condition: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(width_in, width_out, kernel, padding=kernel // 2)
        self.first_norm = norm(width_out)
        self.second = nn.Conv1d(width_out, width_out, kernel, padding=kernel // 2)
        self.second_norm = norm(width_out)
        self.told = nn.Linear(condition, 2 * width_out)
        self.shortcut = nn.Conv1d(width_in, width_out, 1) if width_in != width_out else nn.Identity()
        self.mish = nn.Mish()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """condition [n, c]."""
        inside = self.mish(self.first_norm(self.first(x)))
        scale, shift = self.told(condition).unsqueeze(-1).chunk(2, dim=1)
        inside = self.mish(self.second_norm(self.second((1 + scale) * inside + shift)))
        return inside + self.shortcut(x)


class ConditionalUnet(nn.Module):
    """Features along the chunk to features along the chunk: down, through the middle, and up with skips."""

    def __init__(self, widths: Sequence[int], condition: int, kernel: int) -> None:
        super().__init__()
        size = {"condition": condition, "kernel": kernel}
        steps = list(zip([widths[0], *widths[:-1]], widths, strict=True))
        self.down = nn.ModuleList(
            nn.ModuleList([ConditionedBlock(before, width, **size), ConditionedBlock(width, width, **size)])
            for before, width in steps
        )
        self.shorten = nn.ModuleList(nn.Conv1d(width, width, 3, stride=2, padding=1) for width in widths[:-1])
        self.middle = ConditionedBlock(widths[-1], widths[-1], **size)
        self.lengthen = nn.ModuleList(
            nn.ConvTranspose1d(width, before, 4, stride=2, padding=1) for before, width in reversed(steps[1:])
        )
        self.mish = nn.Mish()
        self.up = nn.ModuleList(ConditionedBlock(2 * width, width, **size) for width in reversed(widths[:-1]))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[n, w, T] and [n, c] -> [n, w, T], w the first of the widths."""
        condition = self.mish(condition)
        skips: list[Tensor] = []
        for level, pair in enumerate(self.down):
            first, second = cast(nn.ModuleList, pair)
            x = second(first(x, condition), condition)
            if level < len(self.shorten):
                skips.append(x)
                x = self.shorten[level](x)
        x = self.middle(x, condition)
        for double, block in zip(self.lengthen, self.up, strict=True):
            x = block(torch.cat([double(x), skips.pop()], dim=1), condition)
        return x
