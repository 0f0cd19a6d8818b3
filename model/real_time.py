"""Real-time chunking: a new chunk of actions that goes on from the one in execution.

(Black, Galliker, Levine, arXiv 2506.07339.) While a robot waits for a new chunk it executes the old one, so the first
rows of the new chunk are no longer open: they are frozen. What the old chunk would have done after that is worth
following too, the less the further off it is. Filling in the rest of a sample of which part is known is inpainting, and
needs no training: at every step of the sampler, the end that the flow is heading for is compared with what is known,
and the sample is pulled so that the end moves towards it. Where to pull follows from the derivative of the end by the
sample, one backward pass through the network, so a step costs about three times a plain one.

    end      = x + (1 - t) v(x, t)                        where the flow will arrive, if it goes straight on
    pull     = (weights * (known - end)) d end / d x      a vector-Jacobian product
    velocity = v(x, t) + min(MOST_PULL, (t^2 + (1 - t)^2) / (t (1 - t))) pull

weights: 1 for frozen rows, 0 where nothing is known, falling exponentially between. Rows of a batch for which nothing
is known come out exactly as without all this.
Shapes: b rows of a batch, H actions of a chunk, A action dimensions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blm.model.errors import UserError
from blm.model.flow import step_times
from blm.model.layout import Layout
from blm.model.normalize import Quantiles
from blm.model.transforms import relative_chunk
from blm.model.types import ActionPrefix, Prefixes

MOST_PULL = 5.0
"""Bound of the pull's weight, which is infinite at t = 0: the paper's choice for few sampler steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixTensors:
    """What is known of the chunks of a batch, in normalised units."""

    actions: Tensor
    """float32 [b, H, A]; past a row's `overlap` anything finite."""
    frozen: Tensor
    """int64 [b]: actions that will have been executed."""
    overlap: Tensor
    """int64 [b]: actions that are known, frozen ones included; 0: none."""

    def weights(self) -> Tensor:
        """How closely each action is to be followed, float32 [b, H] in [0, 1]."""
        place = torch.arange(self.actions.shape[1], device=self.actions.device)
        frozen, overlap = self.frozen[:, None], self.overlap[:, None]
        left = ((overlap - place) / (overlap - frozen + 1)).clamp(0.0, 1.0)
        falling = left * torch.expm1(left) / math.expm1(1.0)
        return torch.where(place < frozen, 1.0, falling)

    def __getitem__(self, rows: slice) -> "PrefixTensors":
        """Some rows of the batch."""
        return PrefixTensors(actions=self.actions[rows], frozen=self.frozen[rows], overlap=self.overlap[rows])


def normalised_prefixes(
    prefixes: Prefixes | None,
    state: np.ndarray,
    layout: Layout,
    statistics: Quantiles,
    *,
    chunk: int,
    device: torch.device | str = "cpu",
) -> PrefixTensors | None:
    """Prefixes of one robot's rows as the model knows actions; None if there is none.

    state: proprioception [b, S] in robot units, from which actions are measured. statistics: of the robot's actions.
    chunk: H; longer prefixes are cut. UserError for a prefix of another width than the robot's actions.
    """
    if prefixes is None or all(prefix is None for prefix in prefixes):
        return None
    shape = (len(prefixes), chunk, layout.action_dim)
    actions = np.zeros(shape, np.float32)
    frozen, overlap = np.zeros(len(prefixes), np.int64), np.zeros(len(prefixes), np.int64)
    for row, prefix in enumerate(prefixes):
        if prefix is None:
            continue
        known = _whole(prefix, layout, chunk)
        actions[row] = statistics.normalize(relative_chunk(known, state[row], layout))
        frozen[row], overlap[row] = min(prefix.frozen, chunk), min(len(prefix.actions), chunk)
    parts = (torch.from_numpy(array).to(device) for array in (actions, frozen, overlap))
    return PrefixTensors(**dict(zip(("actions", "frozen", "overlap"), parts, strict=True)))


def _whole(prefix: ActionPrefix, layout: Layout, chunk: int) -> np.ndarray:
    """A prefix as [H, A], its last row repeated: statistics may differ from action to action of a chunk."""
    if prefix.actions.shape[1] != layout.action_dim:
        raise UserError(f"a prefix of shape {list(prefix.actions.shape)}; {layout.name} needs [P, {layout.action_dim}]")
    return prefix.actions[np.minimum(np.arange(chunk), len(prefix.actions) - 1)]


def guided_euler(
    velocity: Callable[[Tensor, float], Tensor], noise: Tensor, steps: int, prefixes: PrefixTensors
) -> Tensor:
    """As `flow.euler`, from noise [b, H, A] at t = 0 to chunks [b, H, A] at t = 1 that go on from their prefixes.

    velocity(x, time) must be differentiable by x. Not inside `torch.inference_mode`.
    """
    weights = prefixes.weights().unsqueeze(-1)
    x = noise
    for t in step_times(steps):
        with torch.enable_grad():
            start = x.clone().requires_grad_(True)  # noise may come from inference mode, a copy of it does not
            now = velocity(start, t)
            end = start + (1 - t) * now
            (pull,) = torch.autograd.grad(end, start, weights * (prefixes.actions - end.detach()))
        x = x + (now.detach() + pull_weight(t) * pull) / steps
    return x


def pull_weight(t: float) -> float:
    """Weight of the pull at flow time t in [0, 1)."""
    return MOST_PULL if t == 0 else min(MOST_PULL, (t**2 + (1 - t) ** 2) / (t * (1 - t)))
