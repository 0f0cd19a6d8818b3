"""The intent-bridging interface: a Perceiver that turns the MLLM's hidden states into a few latent tokens.

(BLM1, arXiv 2510.24161, section on Stage II; Perceiver resampler as in Flamingo.) Shapes: B observations, L intent
tokens of width c, N latents of width d.
"""

import torch
from torch import Tensor, nn

from blm.model.attention import CrossAttention, KeyValue, SelfAttention, feed_forward, split_heads


class PerceiverLayer(nn.Module):
    """Latents look at the intent tokens, then at each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_cross, self.norm_self, self.norm_ff = (nn.LayerNorm(width) for _ in range(3))
        self.cross = CrossAttention(width, heads)
        self.own = SelfAttention(width, heads)
        self.ff = feed_forward(width)

    def forward(self, latents: Tensor, context: KeyValue, mask: Tensor) -> Tensor:
        """latents [B, N, d], context: keys and values [B, heads, L, d / heads], mask bool [B, L]."""
        latents = latents + self.cross(self.norm_cross(latents), context, mask)
        latents = latents + self.own(self.norm_self(latents))
        return latents + self.ff(self.norm_ff(latents))


class IntentBridge(nn.Module):
    """Perceiver resampler over H_k. Its input norm tames the few huge channels that hidden states of LLMs have; the
    projection behind it scales its channels, so it learns no scale of its own."""

    def __init__(
        self, *, intent_width: int, max_tokens: int, width: int, latents: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in = nn.LayerNorm(intent_width, elementwise_affine=False)
        self.project = nn.Linear(intent_width, width)
        self.position = nn.Parameter(torch.randn(max_tokens, width) * 0.02)
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.layers = nn.ModuleList(PerceiverLayer(width, heads) for _ in range(layers))
        self.to_kv = nn.Linear(width, 2 * layers * width)  # for all layers at once: they see the same tokens
        self.norm_out = nn.LayerNorm(width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Intents [B, L, c] of any floating type with mask bool [B, L] -> [B, N, d]. L must not exceed the
        `max_tokens` it was built for."""
        context = self.project(self.norm_in(states.float()))
        context = context + self.position[: states.shape[1]].to(context.dtype)
        kept = split_heads(self.to_kv(context), 2 * len(self.layers), self.heads)
        latents = self.latents.expand(len(states), -1, -1)
        for i, layer in enumerate(self.layers):
            latents = layer(latents, kept[2 * i : 2 * i + 2], mask)
        return self.norm_out(latents)
