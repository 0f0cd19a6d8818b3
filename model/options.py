"""What a configuration may ask of the model: sizes and choices as data, so that reading them needs no PyTorch."""

from dataclasses import dataclass
from typing import Literal

from blm.model.errors import UserError

Precision = Literal["auto", "float32", "bfloat16"]
"""Of matrix products in training; weights stay float32."""
OptimizerName = Literal["adamw", "muon", "adamw8bit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters on the linear layers of the language model's blocks, trained in place of all its weights."""

    rank: int = 0
    """Rank of the adapters; 0: none, everything is trained."""
    alpha: int = 32
    """Their output is scaled by alpha / rank."""
    dropout: float = 0.0
    """On their input."""
    vision: bool = False
    """Also on the vision tower's linear layers."""

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0:
            raise UserError(f"lora rank {self.rank} and alpha {self.alpha}: give a rank of 0 or more, alpha above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora dropout is {self.dropout}; give a chance from 0 to below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyBackboneConfig:
    """A Qwen2.5-VL small enough to train from scratch on two CPU cores."""

    vision_depth: int = 4
    """Vision blocks, all with full attention."""
    vision_width: int = 128
    """Vision hidden size; heads of 32."""
    depth: int = 4
    """Language model blocks."""
    width: int = 192
    """Language model hidden size; heads of 32, a third of them for keys and values."""
    vocab_size: int = 1024
    """Tokens of the tokenizer trained on the corpora."""
    max_length: int = 2048
    """Longest sequence the configuration declares."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """Size of the policy. The defaults are the tiny one's."""

    chunk: int = 16
    """Actions predicted at once (H)."""
    width: int = 128
    """Width of bridge and transformer."""
    blocks: int = 6
    """Transformer blocks; even ones attend to intents, odd ones to the sequence."""
    heads: int = 4
    """Attention heads of bridge and transformer."""
    latents: int = 8
    """Latents of the bridge, and future tokens."""
    bridge_layers: int = 2
    """Perceiver layers."""
    head_hidden: int = 128
    """Hidden width of the per-embodiment encoders and decoders."""
    dropout: float = 0.0
    """In the transformer's blocks."""
    state_dropout: float = 0.1
    """Chance that a sample's state token is replaced by a learned one, so that pictures are not ignored."""
    intent_dropout: float = 0.0
    """Chance that an intent token is hidden in training: what augmentation is to pictures, for cached intents."""
    intent_noise: float = 0.0
    """Gaussian noise on intent tokens in training, as a share of each token's own standard deviation."""
    state_noise: float = 0.0
    """Standard deviation of Gaussian noise on the state in training, in normalised units (2 is a joint's range)."""
    guidance_dropout: float = 0.0
    """Chance that a sample's intents are replaced by learned ones in training; above 0 allows classifier-free
    guidance."""
    future_weight: float = 0.1
    """Weight of the future-prediction loss; 0 leaves out the future tokens altogether."""
    future_block: int = 4
    """Block after which the future tokens are compared: an odd-numbered index has just attended to the actions."""
    ema_target: float = 0.99
    """Decay of the bridge copy that makes the targets."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UserError(f"policy width {self.width} is not divisible by its {self.heads} heads")
        if not 1 <= self.future_block <= self.blocks:
            raise UserError(f"policy future_block {self.future_block} is not one of its {self.blocks} blocks")
        for name in ("dropout", "state_dropout", "intent_dropout", "guidance_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"policy {name} is {getattr(self, name)}; give a chance from 0 to below 1")
        if min(self.intent_noise, self.state_noise, self.future_weight) < 0:
            raise UserError("policy intent_noise, state_noise and future_weight must be 0 or more")
