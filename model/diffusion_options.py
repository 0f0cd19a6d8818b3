"""What a configuration may ask of the Diffusion Policy: sizes as data, so that reading them needs no PyTorch."""

from dataclasses import dataclass
from typing import Literal

from blm.model.errors import UserError

LEAST_FEATURES = 4
"""Channels of a group of group normalisation, at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionPolicyConfig:
    """Size of the policy. The defaults suit two CPU cores; what the paper's size takes is written beside them."""

    chunk: int = 16
    """Actions predicted at once (H)."""
    stem_width: int = 16
    """Channels of the picture encoder's first convolution, which halves the picture. A ResNet-18 has 64."""
    encoder_widths: tuple[int, ...] = (32, 64)
    """Channels of the encoder's stages, each of which halves the picture again. A ResNet-18 has 64, 128, 256, 512."""
    encoder_blocks: int = 1
    """Residual blocks of a stage. A ResNet-18 has 2."""
    keypoints: int = 32
    """Points in each picture that the spatial softmax hands on. The paper has 32."""
    unet_widths: tuple[int, ...] = (64, 128)
    """Channels of the U-Net's levels; each but the last halves the chunk. The paper has 256, 512, 1024."""
    unet_kernel: int = 5
    """Actions that a convolution of the U-Net covers; odd."""
    condition: int = 128
    """Width of the features of pictures, state and task together, and of the diffusion time beside them."""
    word_width: int = 32
    """Width of a word of the task."""
    word_dropout: float = 0.1
    """Chance that a word of the task is replaced by the unknown one in training, so that new words do no harm."""
    train_timesteps: int = 100
    """Levels of noise in training."""
    sample_timesteps: int = 10
    """DDIM steps from noise to actions."""
    prediction: Literal["epsilon", "sample"] = "epsilon"
    """What the network predicts: the noise, or the actions themselves."""
    shift_px: int = 4
    """Pictures are shifted by up to so many pixels in training."""

    def __post_init__(self) -> None:
        for name in ("chunk", "encoder_blocks", "keypoints", "condition", "word_width"):
            if getattr(self, name) < 1:
                raise UserError(f"diffusion policy {name} is {getattr(self, name)}; give 1 or more")
        for name in ("encoder_widths", "unet_widths"):
            if not getattr(self, name):
                raise UserError(f"diffusion policy {name} is empty; give the channels of one level at least")
        for width in (self.stem_width, *self.encoder_widths, *self.unet_widths):
            if width < LEAST_FEATURES or width % LEAST_FEATURES:
                raise UserError(f"diffusion policy width {width}: give a multiple of {LEAST_FEATURES}")
        if self.chunk % 2 ** (len(self.unet_widths) - 1):
            raise UserError(
                f"diffusion policy chunk {self.chunk} cannot be halved {len(self.unet_widths) - 1} times; give fewer"
                " unet_widths"
            )
        if self.condition % 2:
            raise UserError(f"diffusion policy condition is {self.condition}; give an even number")
        if self.unet_kernel < 1 or self.unet_kernel % 2 == 0:
            raise UserError(f"diffusion policy unet_kernel is {self.unet_kernel}; give an odd number")
        if not 0 <= self.word_dropout < 1:
            raise UserError(f"diffusion policy word_dropout is {self.word_dropout}; give a chance from 0 to below 1")
        if self.shift_px < 0:
            raise UserError(f"diffusion policy shift_px is {self.shift_px}; give 0 or more")
        if not 1 <= self.sample_timesteps <= self.train_timesteps:
            raise UserError(
                f"diffusion policy sample_timesteps is {self.sample_timesteps}; give 1 to {self.train_timesteps}"
            )
