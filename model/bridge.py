"""The intent-bridging interface: a Perceiver that turns the MLLM's hidden states into a few latent tokens.

(BLM1, arXiv 2510.24161, section on Stage II; Perceiver resampler as in Flamingo.) Shapes: B observations, L intent
tokens of width c, N latents of width d.
"""

import torch
from torch import Tensor, nn

from blm.model.attention import Attention, feed_forward


class PerceiverLayer(nn.Module):
    """Latents look at the intent tokens, then at each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_cross, self.norm_self, self.norm_ff = (nn.LayerNorm(width) for _ in range(3))
        self.cross = Attention(width, heads)
        self.own = Attention(width, heads)
        self.ff = feed_forward(width)

    def forward(self, latents: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """latents [B, N, d], context [B, L, d], mask bool [B, L]."""
        latents = latents + self.cross(self.norm_cross(latents), self.cross.key_value(context), mask)
        normed = self.norm_self(latents)
        latents = latents + self.own(normed, self.own.key_value(normed))
        return latents + self.ff(self.norm_ff(latents))


class IntentBridge(nn.Module):
    """Perceiver resampler over H_k. Its input norm tames the few huge channels that hidden states of LLMs have."""

    def __init__(
        self, *, intent_width: int, max_tokens: int, width: int, latents: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(intent_width)
        self.project = nn.Linear(intent_width, width)
        self.position = nn.Parameter(torch.randn(max_tokens, width) * 0.02)
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.layers = nn.ModuleList(PerceiverLayer(width, heads) for _ in range(layers))
        self.norm_out = nn.LayerNorm(width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Intents [B, L, c] with mask bool [B, L] -> [B, N, d]. L must not exceed the `max_tokens` it was built
        for."""
        context = self.project(self.norm_in(states)) + self.position[: states.shape[1]]
        latents = self.latents.expand(len(states), -1, -1)
        for layer in self.layers:
            latents = layer(latents, context, mask)
        return self.norm_out(latents)
