"""Changed pictures for training: shifted by some pixels, in other brightness, contrast and colour.

Everything follows from a row's seed, so that a resumed run, and any division of rows among workers, sees the same
pictures. The cameras of a row are changed each in its own way; present and future picture of a row, given the same
seed, alike. PyTorch is imported where it is used: every command reads the options.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blm.model.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in brightness (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """How far pictures are changed; 0 leaves that out."""

    shift_px: int = 4
    """Pixels up, down, left and right, at most; what comes into the picture repeats its edge."""
    brightness: float = 0.2
    """Colours are multiplied by 1 - this to 1 + this."""
    contrast: float = 0.2
    """The same for the distance from the picture's mean brightness."""
    saturation: float = 0.2
    """The same for the distance from grey."""

    def __post_init__(self) -> None:
        if self.shift_px < 0:
            raise UserError(f"augment.shift_px is {self.shift_px}; give 0 or more")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"augment.{name} is {getattr(self, name)}; give 0 to below 1")


def augment(pictures: "Tensor", seeds: np.ndarray, config: AugmentConfig) -> "Tensor":
    """Changed copies of pictures uint8 [B, H, W, 3] or [B, C, H, W, 3]; a row with seed 0 comes back as it is.

    seeds: int64 [B], 0 or more. On any device; draws are made on CPU.
    """
    import torch

    shape = pictures.shape
    rows = pictures.reshape(shape[0], -1, *shape[-3:])
    cameras = rows.shape[1]
    shifts, factors = _draw(seeds, cameras, config)
    flat = rows.flatten(0, 1)
    moved = _shifted(flat, torch.from_numpy(shifts).to(flat.device))
    coloured = _coloured(moved, torch.from_numpy(factors).to(flat.device))
    changed = torch.from_numpy(np.repeat(seeds != 0, cameras)).to(flat.device)
    return torch.where(changed[:, None, None, None], coloured, flat).reshape(shape)


def _draw(seeds: np.ndarray, cameras: int, config: AugmentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Of each picture its shift int64 [B * C, 2] (down, right), and float32 [B * C, 3] factors of brightness, contrast
    and saturation."""
    draws = np.stack([np.random.default_rng(int(seed)).random((cameras, 5)) for seed in seeds]).reshape(-1, 5)
    shifts = np.floor(draws[:, :2] * (2 * config.shift_px + 1)).astype(np.int64) - config.shift_px
    spread = np.array([config.brightness, config.contrast, config.saturation])
    return shifts, (1 + (2 * draws[:, 2:] - 1) * spread).astype(np.float32)


def _shifted(pictures: "Tensor", shifts: "Tensor") -> "Tensor":
    """Pictures [N, H, W, 3] moved by `shifts` [N, 2]."""
    import torch

    n, height, width = pictures.shape[:3]
    down = (torch.arange(height, device=pictures.device) - shifts[:, :1]).clamp(0, height - 1)
    right = (torch.arange(width, device=pictures.device) - shifts[:, 1:]).clamp(0, width - 1)
    row = torch.arange(n, device=pictures.device)[:, None, None]
    return pictures[row, down[:, :, None], right[:, None, :]]


def _coloured(pictures: "Tensor", factors: "Tensor") -> "Tensor":
    """Pictures uint8 [N, H, W, 3] with brightness, contrast and saturation multiplied by `factors` [N, 3]."""
    import torch

    brightness, contrast, saturation = (factors[:, i, None, None, None] for i in range(3))
    colours = pictures.float() * brightness
    luma = torch.tensor(LUMA, device=pictures.device)
    mean = (colours @ luma).mean(dim=(1, 2))[:, None, None, None]
    colours = mean + (colours - mean) * contrast
    grey = (colours @ luma).unsqueeze(-1)
    return (grey + (colours - grey) * saturation).round().clamp(0, 255).to(torch.uint8)
