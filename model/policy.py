"""The policy of Stage II: intents and proprioception in, action chunks out.

Sequence: [1 state token][M future tokens][H noisy action tokens] through the Diffusion Transformer, which attends
to the bridge's latents of the present picture. The future tokens learn, halfway up, to predict the bridge's latents
of the picture one chunk later (FLARE, arXiv 2505.15659); M equals the number of latents, so they align one to one.
Robots of several bodies share everything but their heads; rows of one body stand together in a batch, so no row is
gathered or padded.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blm.model.bridge import IntentBridge
from blm.model.dit import Dit
from blm.model.embodiment_heads import build_heads
from blm.model.embodiments import get_embodiment
from blm.model.flow import euler, noisy, sample_times
from blm.model.options import PolicyConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyGroup:
    """Rows of one robot in a batch, in normalised units."""

    embodiment: str
    """Its name."""
    state: Tensor
    """float32 [b, S]."""
    actions: Tensor
    """float32 [b, H, A]."""
    is_pad: Tensor
    """bool [b, H]: actions past the episode's end, which carry no loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyBatch:
    """B rows: groups one after another, and in the same order the intents of the present and of one chunk later."""

    groups: Sequence[PolicyGroup]
    intents: Tensor
    """[B, L, c]."""
    mask: Tensor
    """bool [B, L]."""
    future_intents: Tensor
    """[B, L, c]."""
    future_mask: Tensor
    """bool [B, L]."""


class Policy(nn.Module):
    """Bridge, transformer and per-embodiment heads."""

    def __init__(self, config: PolicyConfig, *, embodiments: Sequence[str], intent_width: int, max_tokens: int) -> None:
        super().__init__()
        self.config = config
        self.bridge = IntentBridge(
            intent_width=intent_width,
            max_tokens=max_tokens,
            width=config.width,
            latents=config.latents,
            layers=config.bridge_layers,
            heads=config.heads,
        )
        self.dit = Dit(width=config.width, blocks=config.blocks, heads=config.heads, dropout=config.dropout)
        self.robots = build_heads(tuple(embodiments), config.width, config.head_hidden)
        self.action_position = nn.Parameter(torch.randn(config.chunk, config.width) * 0.02)
        self.no_state = nn.Parameter(torch.randn(config.width) * 0.02)
        if config.future_weight > 0:
            self.future_tokens = nn.Parameter(torch.randn(config.latents, config.width) * 0.02)
            self.future_project = nn.Sequential(
                nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
            )
            self.target_bridge = copy.deepcopy(self.bridge).requires_grad_(False)

    def forward(self, batch: PolicyBatch, generator: torch.Generator, draws: int = 1) -> dict[str, Tensor]:
        """Losses of a batch with `draws` noise draws a row: `flow`, `future`, and their weighted sum `loss`.

        `future` is 1 - cosine between predicted and true latents of the future picture. Two more numbers in eval mode
        say what it is worth: `copy`, the same for the baseline that predicts no change (only the gap between the two
        means anything), and `target_std`, how much the true latents differ between rows (0: they have collapsed).
        """
        latents = self.bridge(*self._disturbed(batch.intents, batch.mask, generator))
        keys = self.dit.intent_key_values(latents)
        n = len(latents)
        device = latents.device
        # Randomness comes from the CPU generator in one order, so that it is the same on any device.
        times = sample_times(n * draws, generator).to(device)
        dropped = (torch.rand(n * draws, generator=generator) < self.config.state_dropout * self.training).to(device)
        states, tokens, targets = [], [], []
        first = 0
        for group in batch.groups:
            head = self.robots[group.embodiment]
            rows = slice(first * draws, (first + len(group.state)) * draws)
            data = group.actions.repeat_interleave(draws, dim=0)
            noise = torch.randn(data.shape, generator=generator).to(device)
            x_t, velocity = noisy(data, noise, times[rows])
            states.append(head.encode_state(group.state).repeat_interleave(draws, dim=0))
            tokens.append(head.encode_actions(x_t))
            targets.append(velocity)
            first += len(group.state)
        state = torch.where(dropped[:, None, None], self.no_state, torch.cat(states))
        out, tapped = self.dit(self._sequence(state, torch.cat(tokens)), times, keys, self.config.future_block)
        flow = self._flow_loss(batch, out[:, -self.config.chunk :], targets, draws)
        future = self._future_losses(batch, tapped, draws)
        return {"loss": flow + self.config.future_weight * future["future"], "flow": flow, **future}

    def _disturbed(self, intents: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Intents and mask with the configured noise and token dropout, in training alone."""
        if not self.training or self.config.intent_dropout == self.config.intent_noise == 0:
            return intents, mask
        seed = int(torch.randint(2**62, (1,), generator=generator))
        local = torch.Generator(intents.device).manual_seed(seed)  # whole hidden states would be slow to draw on CPU
        noise = torch.randn(intents.shape, generator=local, device=intents.device, dtype=intents.dtype)
        intents = intents + self.config.intent_noise * intents.std(dim=-1, keepdim=True) * noise
        kept = torch.rand(mask.shape, generator=local, device=mask.device) >= self.config.intent_dropout
        kept[:, 0] = True  # attention needs a token to look at
        return intents, mask & kept

    def _sequence(self, state: Tensor, actions: Tensor) -> Tensor:
        parts = [state, actions + self.action_position]
        if self.config.future_weight > 0:
            parts.insert(1, self.future_tokens.expand(len(state), -1, -1))
        return torch.cat(parts, dim=1)

    def _flow_loss(self, batch: PolicyBatch, tokens: Tensor, targets: list[Tensor], draws: int) -> Tensor:
        """Mean squared error of the velocity over real actions and dimensions, all robots weighing by their
        elements."""
        total, count = torch.zeros((), device=tokens.device), 0
        first = 0
        for group, target in zip(batch.groups, targets, strict=True):
            rows = tokens[first : first + len(target)]
            first += len(target)
            real = (~group.is_pad).repeat_interleave(draws, dim=0).unsqueeze(-1)
            error = (self.robots[group.embodiment].decode_actions(rows).float() - target) ** 2
            total = total + (error * real).sum()
            count = count + real.sum() * target.shape[-1]
        return total / count

    def _future_losses(self, batch: PolicyBatch, tapped: Tensor, draws: int) -> dict[str, Tensor]:
        zero = torch.zeros((), device=tapped.device)
        if self.config.future_weight == 0:
            return {"future": zero, "copy": zero, "target_std": zero}
        with torch.no_grad():
            target = self.target_bridge(batch.future_intents, batch.future_mask).float()
        predicted = self.future_project(tapped[:, 1 : 1 + self.config.latents]).float()
        losses = {"future": _distance(predicted, target.repeat_interleave(draws, dim=0))}
        if not self.training:
            with torch.no_grad():
                present = self.target_bridge(batch.intents, batch.mask).float()
            losses |= {"copy": _distance(present, target), "target_std": target.std(dim=0, correction=0).mean()}
        return losses

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target bridge towards the trained one; called after every optimiser step."""
        if self.config.future_weight > 0:
            ours, target = list(self.bridge.parameters()), list(self.target_bridge.parameters())
            torch._foreach_lerp_(target, ours, 1 - self.config.ema_target)

    @torch.inference_mode()
    def sample(
        self, embodiment: str, state: Tensor, intents: Tensor, mask: Tensor, noise: Tensor, steps: int
    ) -> Tensor:
        """Normalised action chunks [b, H, A] of one robot by `steps` Euler steps from noise [b, H, A]."""
        head = self.robots[embodiment]
        keys = self.dit.intent_key_values(self.bridge(intents, mask))
        state_token = head.encode_state(state)

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            out, _ = self.dit(self._sequence(state_token, head.encode_actions(x)), time, keys)
            return head.decode_actions(out[:, -self.config.chunk :])

        return euler(velocity, noise, steps)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine of tokens [B, N, d], averaged."""
    return 1 - F.cosine_similarity(one, other, dim=-1).mean()


def noise_shape(config: PolicyConfig, embodiment: str) -> tuple[int, int]:
    """(H, A) of the noise a chunk of this robot starts from."""
    return config.chunk, get_embodiment(embodiment).action_dim
