"""What a training step of the policy computes on: its rows, and all the randomness it needs.

Randomness is made once for the whole step, on CPU, and a row takes its own by its place in the step. So a step's losses
and gradients are the same on any device, and however its rows are divided among workers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from blm.model.errors import UserError
from blm.model.flow import sample_times
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

    def each(self, change: Callable[[Tensor], Tensor]) -> "PolicyGroup":
        """The group with all its tensors as `change` makes them."""
        return replace(self, state=change(self.state), actions=change(self.actions), is_pad=change(self.is_pad))


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyBatch:
    """B rows: groups one after another, and in the same order the intents of the present and of one chunk later."""

    groups: Sequence[PolicyGroup]
    intents: Tensor
    """[B, L, c], in any floating type."""
    mask: Tensor
    """bool [B, L]."""
    future_intents: Tensor | None = None
    """[B, L, c]; None where nothing asks for them (`future_weight: 0`)."""
    future_mask: Tensor | None = None
    """bool [B, L]."""
    place: Tensor | None = None
    """int64 [B]: where each row stands in the whole step's batch, over all workers. None: these are all its rows, in
    order."""

    @property
    def places(self) -> Tensor:
        """`place`, on CPU, counted out where it is None."""
        return torch.arange(len(self.intents)) if self.place is None else self.place.cpu()

    def to(self, device: torch.device) -> "PolicyBatch":
        """The batch on `device`; places stay on the CPU. What is `pinned` is copied while the host goes on."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "PolicyBatch":
        """The batch in memory that a GPU reads by itself, as far as it is not on one."""
        return self._each(lambda tensor: tensor.pin_memory() if tensor.device.type == "cpu" else tensor)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PolicyBatch":
        def optional(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return replace(
            self,
            groups=[group.each(change) for group in self.groups],
            intents=change(self.intents),
            mask=change(self.mask),
            future_intents=optional(self.future_intents),
            future_mask=optional(self.future_mask),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyDraws:
    """The randomness of a step of N rows with R noise draws each. Rows are numbered by place. On CPU."""

    times: Tensor
    """Flow times float32 [N, R] in [0, 1)."""
    noise: Tensor
    """Starting points float32 [N, R, H, A of the widest robot]; a robot takes the first of its A."""
    no_state: Tensor
    """bool [N]: its proprioception is hidden in training."""
    no_intent: Tensor
    """bool [N]: its intents are hidden in training (for classifier-free guidance)."""
    seed: int
    """Noise on a row's inputs follows from this and its place."""


def make_draws(
    config: PolicyConfig, *, seed: int, step: int, batch: int, draws: int, max_action_dim: int
) -> PolicyDraws:
    """The randomness of one step of `batch` rows (over all workers): a pure function of its arguments."""
    state = np.random.SeedSequence((seed, step)).generate_state(2, np.uint64) >> 2
    generator = torch.Generator().manual_seed(int(state[0]))
    return PolicyDraws(
        times=sample_times(batch * draws, generator).view(batch, draws),
        noise=torch.randn(batch, draws, config.chunk, max_action_dim, generator=generator),
        no_state=torch.rand(batch, generator=generator) < config.state_dropout,
        no_intent=torch.rand(batch, generator=generator) < config.guidance_dropout,
        seed=int(state[1]),
    )


def disturbed(batch: PolicyBatch, draws: PolicyDraws, config: PolicyConfig) -> PolicyBatch:
    """The batch with the configured noise on states and intents, and with some intent tokens hidden."""
    if config.intent_dropout == config.intent_noise == config.state_noise == 0:
        return batch
    states = [group.state.clone() for group in batch.groups]
    rows_of_state = [row for state in states for row in state]
    intents, mask = batch.intents.clone(), batch.mask.clone()
    shape, device = intents.shape[1:], intents.device
    local = torch.Generator(device)
    for row, place in enumerate(batch.places.tolist()):
        local.manual_seed(draws.seed + place)  # a row's own, whatever stands beside it
        if config.state_noise:
            state = rows_of_state[row]
            state += config.state_noise * torch.randn(state.shape, generator=local, device=device)
        if config.intent_noise:
            clean = intents[row].float()
            noise = config.intent_noise * torch.randn(shape, generator=local, device=device)
            intents[row] = (clean + clean.std(dim=-1, keepdim=True) * noise).to(intents.dtype)
        if config.intent_dropout:
            kept = torch.rand(shape[0], generator=local, device=device) >= config.intent_dropout
            kept[0] = True  # attention needs a token to look at
            mask[row] &= kept
    groups = [replace(group, state=state) for group, state in zip(batch.groups, states, strict=True)]
    return replace(batch, groups=groups, intents=intents, mask=mask)


def refuse_non_finite(batch: PolicyBatch) -> None:
    """UserError with the first row that holds NaN or an infinite value: what, where, of which robot. Nothing if there
    is none."""
    places = batch.places.tolist()
    first = 0
    for group in batch.groups:
        for what, values in (("state", group.state), ("actions", group.actions)):
            for row, *where in _non_finite(values):
                raise UserError(
                    f"row {places[first + row]} of the batch ({group.embodiment}): {what} holds NaN or an infinite"
                    f" value at {where}; look for it in the dataset (blm data inspect) and remove that episode"
                )
        first += len(group.state)
    for what, values in (("intents", batch.intents), ("future intents", batch.future_intents)):
        for row, *where in _non_finite(values):
            raise UserError(
                f"row {places[row]} of the batch ({_robot_of(batch, row)}): its {what} hold NaN or an infinite value at"
                f" {where}; run intents again, and look at its pictures if it comes back"
            )


def _non_finite(values: Tensor | None) -> list[list[int]]:
    """Where the first value is not finite: none or one index."""
    return [] if values is None else torch.isfinite(values).logical_not().nonzero()[:1].tolist()


def _robot_of(batch: PolicyBatch, row: int) -> str:
    """The embodiment of a row."""
    for group in batch.groups:
        if row < len(group.state):
            return group.embodiment
        row -= len(group.state)
    raise IndexError(row)
