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
SHORT = 16
"""Keys. On CPU a softmax along so few numbers is not vectorised; along queries it is (0.10 in place of 0.74 ms for 8
keys and 25 queries of 256 heads)."""


class CrossAttention(nn.Module):
    """Attention from queries to keys and values that were made elsewhere, once for many calls."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, key_value: KeyValue, mask: Tensor | None = None) -> Tensor:
        """x [B, T, d]; keys and values [B, heads, S, d / heads]; mask bool [B, S], False where they are padding."""
        (q,) = split_heads(self.to_q(x), 1, self.heads)
        out = attend(q, *key_value, None if mask is None else mask[:, None, None, :])
        return self.out(out.transpose(1, 2).flatten(2))


class SelfAttention(nn.Module):
    """Attention within a sequence; queries, keys and values by one product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        """x [B, T, d] -> [B, T, d], or the last `last` tokens alone, which still look at all."""
        q, k, v = split_heads(self.to_qkv(x), 3, self.heads)
        out = attend(q if last is None else q[:, :, -last:], k, v, None)
        return self.out(out.transpose(1, 2).flatten(2))


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, T, parts * d] -> `parts` tensors [B, heads, T, d / heads], made contiguous in one copy."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).contiguous().unbind(0)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention of q [B, heads, T, e] to k and v [B, heads, S, e].

    mask: bool, broadcast to [B, heads, T, S], True where seen; every query must see at least one key.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    q = q * q.shape[-1] ** -0.5
    if mask is None and k.shape[-2] < SHORT:
        scores = k @ q.transpose(-1, -2)
        return (scores.softmax(dim=-2) if k.requires_grad else _softmax_down(scores)).transpose(-1, -2) @ v
    scores = q @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1) @ v


def _softmax_down(scores: Tensor) -> Tensor:
    """`softmax(dim=-2)` for a network that acts: PyTorch's own gives other bits to those columns of which threads have
    to share a vector, so that what a row gets would depend on how many rows there are."""
    raised = torch.exp(scores - scores.amax(dim=-2, keepdim=True))
    return raised / raised.sum(dim=-2, keepdim=True)


def feed_forward(width: int, multiple: int = 4) -> nn.Sequential:
    """Two linear layers with GELU between them (the exact one: its tanh approximation is 2.6 times slower on CPU)."""
    return nn.Sequential(nn.Linear(width, multiple * width), nn.GELU(), nn.Linear(multiple * width, width))
