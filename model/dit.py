"""The Diffusion Transformer: denoises action tokens, conditioned on intents and on the flow time.

Even blocks attend to the intent latents, odd blocks to the sequence itself (GR00T N1.5's interleaving). Flow time
enters every block as a scale, a shift and a zero-initialised gate (adaLN-Zero), so a fresh block is the identity.
Shapes: B observations, R noise draws of each, T sequence tokens, N intent latents, d width.
"""

from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from blm.model.attention import Attention, KeyValue, feed_forward

TIME_CHANNELS = 256
TIME_BUCKETS = 1000  # flow time in [0, 1] is embedded as a position in [0, 1000]


class DitBlock(nn.Module):
    """Attention (to intents or to the sequence) and feed-forward, both modulated by the flow time."""

    def __init__(self, width: int, heads: int, *, cross: bool, dropout: float) -> None:
        super().__init__()
        self.cross = cross
        self.attention = Attention(width, heads)
        self.ff = feed_forward(width)
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_ff = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)

    def forward(self, x: Tensor, time: Tensor, intents: KeyValue) -> Tensor:
        """x [B*R, T, d], time [B*R, d], intents: keys and values [B, heads, N, d / heads], shared by the R draws."""
        scale_a, shift_a, gate_a, scale_f, shift_f, gate_f = self.modulation(time).unsqueeze(1).chunk(6, dim=-1)
        normed = self.norm_attention(x) * (1 + scale_a) + shift_a
        if self.cross:
            observations = intents[0].shape[0]  # the R draws become more queries to one set of keys
            queries = normed.reshape(observations, -1, x.shape[-1])
            attended = self.attention(queries, intents).reshape(x.shape)
        else:
            attended = self.attention(normed, self.attention.key_value(normed))
        x = x + gate_a * self.dropout(attended)
        normed = self.norm_ff(x) * (1 + scale_f) + shift_f
        return x + gate_f * self.dropout(self.ff(normed))


class Dit(nn.Module):
    """Blocks, time embedding and final norm. Tokens in, tokens out; what they mean is the policy's business."""

    def __init__(self, *, width: int, blocks: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.time_channels = Timesteps(TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=1)
        self.time_embedding = TimestepEmbedding(TIME_CHANNELS, width)
        self.blocks = nn.ModuleList(DitBlock(width, heads, cross=i % 2 == 0, dropout=dropout) for i in range(blocks))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation_out = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        nn.init.zeros_(self.modulation_out[1].weight)
        nn.init.zeros_(self.modulation_out[1].bias)

    def intent_key_values(self, latents: Tensor) -> list[KeyValue]:
        """Keys and values of the intents for every block, computed once for all draws and sampler steps."""
        return [b.attention.key_value(latents) if b.cross else (latents, latents) for b in self.blocks]

    def forward(
        self, x: Tensor, flow_time: Tensor, intents: list[KeyValue], tap: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [B*R, T, d], flow_time [B*R] in [0, 1] -> (tokens [B*R, T, d], the tokens after block `tap`, or the
        last)."""
        channels = self.time_channels(flow_time * TIME_BUCKETS).to(x.dtype)
        time = self.time_embedding(channels)
        tapped = x
        for i, block in enumerate(self.blocks, start=1):
            x = block(x, time, intents[i - 1])
            if i == (tap or len(self.blocks)):
                tapped = x
        scale, shift = self.modulation_out(time).unsqueeze(1).chunk(2, dim=-1)
        return self.norm_out(x) * (1 + scale) + shift, tapped
