"""Multi-head attention and feed-forward layers shared by the Perceiver and the Diffusion Transformer.

Plain layers. diffusers' `Attention` computes the same, but re-projects keys and values at every call; here they can
be kept over the sampler's steps, which is where a policy spends its inference time.

On CPU, attention is two batched matrix products. With sequences this short, PyTorch's fused kernel makes many tiny
products, whose overhead in bfloat16 is larger than their work: a tiny training step took 220 ms of CPU time with it
and 124 ms without (in float32 255 and 260 ms).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KeyValue = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Attention from queries [B, T, d] to keys and values made from a context [B, S, c]."""

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(context_width or width, 2 * width)
        self.out = nn.Linear(width, width)

    def key_value(self, context: Tensor) -> KeyValue:
        """Keys and values [B, heads, S, d / heads] of a context [B, S, c]."""
        k, v = self.to_kv(context).chunk(2, dim=-1)
        return self._split(k), self._split(v)

    def forward(self, x: Tensor, key_value: KeyValue, mask: Tensor | None = None) -> Tensor:
        """x [B, T, d]; mask bool [B, S], False where the context is padding."""
        out = attend(self._split(self.to_q(x)), *key_value, None if mask is None else mask[:, None, None, :])
        return self.out(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention of q [B, heads, T, e] to k and v [B, heads, S, e].

    mask: bool, broadcast to [B, heads, T, S], True where seen; every query must see at least one key.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1) @ v


def feed_forward(width: int, multiple: int = 4) -> nn.Sequential:
    """Two linear layers with GELU between them (the exact one: its tanh approximation is 2.6 times slower on CPU)."""
    return nn.Sequential(nn.Linear(width, multiple * width), nn.GELU(), nn.Linear(multiple * width, width))
