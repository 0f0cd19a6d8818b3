"""Seconds of a GPU a unit, by arithmetic and not by measurement: operations over peak times an assumed utilisation.

A weight costs two operations a token forward and four backward; with gradient checkpointing the forward pass runs
twice. Attention within sequences of a few hundred tokens adds a few per cent and is left out, and so are norms, the
optimiser and the table of tokens. Picture sizes follow from patches of 14 px, four of which become a token.
"""

from dataclasses import dataclass

from blm.model.options import PolicyConfig
from blm.pipelines.planning.costs import Backbone, GpuCosts

PATCH_PX = 14
TOKEN_PX = 28
FORWARD, TRAIN, TRAIN_AGAIN = 2.0, 6.0, 8.0
"""Operations a weight and token: forward; with the gradient; with the forward pass run twice for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What the model is shown at a time."""

    pictures: float
    image_px: int
    text_tokens: float

    @property
    def patches(self) -> float:
        """Of all pictures."""
        return self.pictures * (self.image_px // PATCH_PX) ** 2

    @property
    def tokens(self) -> float:
        """Of pictures and text."""
        return self.pictures * (self.image_px // TOKEN_PX) ** 2 + self.text_tokens


def mllm_flops(model: Backbone, sight: Sight, *, per_weight: float, share: float = 1.0) -> float:
    """Operations for one sight through the vision tower and a `share` of the language model's blocks."""
    return per_weight * (model.vision * sight.patches + share * model.language * sight.tokens)


def policy_flops(policy: PolicyConfig, sight: Sight, width: int, *, draws: int, per_weight: float) -> float:
    """Operations of the policy on one observation whose intents have `width` numbers a token.

    A block has 16 width^2 weights (attention to itself and to the intents, a feed-forward layer of four times the
    width), and so has a layer of the bridge, which besides makes keys and values of every intent, once for now and,
    with the future loss, once for later.
    """
    block = 16 * policy.width**2
    sequence = policy.chunk + 1 + (policy.latents if policy.future_weight else 0)
    looks = 2 if policy.future_weight and per_weight > FORWARD else 1
    bridge = policy.bridge_layers * (block * policy.latents + 2 * policy.width * width * sight.tokens)
    return per_weight * (draws * policy.blocks * block * sequence + looks * bridge)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU with the assumptions about it."""

    costs: GpuCosts
    peak_tflops: float

    def training_s(self, flops: float) -> float:
        """Seconds for operations of Stage I."""
        return flops / (1e12 * self.peak_tflops * self.costs.training_utilisation)

    def inference_s(self, flops: float) -> float:
        """Seconds for operations of the frozen model."""
        return flops / (1e12 * self.peak_tflops * self.costs.inference_utilisation)

    def policy_s(self, flops: float) -> float:
        """Seconds for operations of the policy."""
        return flops / (1e12 * self.peak_tflops * self.costs.policy_utilisation)
