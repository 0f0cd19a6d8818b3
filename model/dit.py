"""The Diffusion Transformer: denoises action tokens, conditioned on intents and on the flow time.

Even blocks attend to the intent latents, odd blocks to the sequence itself (GR00T N1.5's interleaving). Flow time
enters every block as a scale, a shift and a zero-initialised gate (adaLN-Zero), so a fresh block is the identity.
What the time says to all blocks is one product, as are the keys and values of the intents for all of them.
Shapes: B observations, R noise draws of each, T sequence tokens, N intent latents, d width.
"""

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional as F

from blm.model.attention import CrossAttention, KeyValue, SelfAttention, feed_forward, split_heads

TIME_CHANNELS = 256
TIME_BUCKETS = 1000  # flow time in [0, 1] is embedded as a position in [0, 1000]


class DitBlock(nn.Module):
    """Attention (to intents or to the sequence) and feed-forward, both modulated by the flow time."""

    def __init__(self, width: int, heads: int, *, cross: bool, dropout: float) -> None:
        super().__init__()
        self.attention = CrossAttention(width, heads) if cross else SelfAttention(width, heads)
        self.ff = feed_forward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, time: Tensor, intents: KeyValue | None, last: int | None = None) -> Tensor:
        """x [B*R, T, d], time [B*R, 6, d], intents: keys and values [B, heads, N, d / heads], shared by the R draws.

        last: only this many tokens at the end are wanted.
        """
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = time.unsqueeze(2).unbind(1)
        normed = modulated(x, shift_a, scale_a)
        if last is not None:
            x = x[:, -last:]
        if isinstance(self.attention, SelfAttention):
            attended = self.attention(normed, last)
        else:
            assert intents is not None
            observations = intents[0].shape[0]  # the R draws become more queries to one set of keys
            queries = normed if last is None else normed[:, -last:]
            attended = self.attention(queries.reshape(observations, -1, x.shape[-1]), intents).reshape(x.shape)
        x = torch.addcmul(x, gate_a, self.dropout(attended).to(x.dtype))
        fed = self.ff(modulated(x, shift_f, scale_f))
        return torch.addcmul(x, gate_f, self.dropout(fed).to(x.dtype))


class Dit(nn.Module):
    """Blocks, time embedding and final norm. Tokens in, tokens out; what they mean is the policy's business."""

    def __init__(self, *, width: int, blocks: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.time_channels = Timesteps(TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=1)
        self.time_embedding = TimestepEmbedding(TIME_CHANNELS, width)
        self.time_silu = nn.SiLU()
        self.blocks = nn.ModuleList(DitBlock(width, heads, cross=i % 2 == 0, dropout=dropout) for i in range(blocks))
        self.intent_kv = nn.Linear(width, 2 * width * ((blocks + 1) // 2))
        self.modulation = nn.Linear(width, (6 * blocks + 2) * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def intent_key_values(self, latents: Tensor) -> tuple[Tensor, ...]:
        """Keys and values of the intents [B, N, d] for all blocks that look at them, alternating; computed once for
        all draws and sampler steps."""
        return split_heads(self.intent_kv(latents), self.intent_kv.out_features // latents.shape[-1], self.heads)

    def modulations(self, flow_time: Tensor) -> Tensor:
        """What flow times in [0, 1], [n], say to all blocks: float32 [n, 6 * blocks + 2, d]."""
        weight = self.modulation.weight
        channels = self.time_channels(flow_time * TIME_BUCKETS).to(weight.dtype)
        said = self.modulation(self.time_silu(self.time_embedding(channels))).float()
        return said.unflatten(-1, (-1, weight.shape[1]))

    def forward(
        self, x: Tensor, time: Tensor, intents: tuple[Tensor, ...], *, last: int, tap: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [B*R, T, d], time: `modulations` of B*R flow times, or of one if all have the same -> (the last `last`
        tokens [B*R, last, d], all tokens after block `tap`, or as they came in)."""
        tapped = x
        final = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            ends_here = i == final and tap != len(self.blocks)  # nothing behind it looks at the other tokens
            keys = (intents[i], intents[i + 1]) if i % 2 == 0 else None
            x = block(x, time[:, 6 * i : 6 * i + 6], keys, last if ends_here else None)
            if i + 1 == tap:
                tapped = x
        shift, scale = time[:, -2:].unsqueeze(2).unbind(1)
        return modulated(x[:, -last:], shift, scale), tapped


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of x [B, T, d], times 1 + scale, plus shift, both [B, 1, d]."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)
