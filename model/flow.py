"""Flow matching: straight paths from noise (t = 0) to data (t = 1), and Euler steps along the learned velocity."""

from collections.abc import Callable

import torch
from torch import Tensor

BETA_A, BETA_B = 1.5, 1.0  # times lean towards the noisy end, as in pi0 and GR00T N1.5
MAX_TIME = 0.999


def sample_times(n: int, generator: torch.Generator) -> Tensor:
    """Flow times float32 [n] in [0, 0.999]: 0.999 (1 - Beta(1.5, 1))."""
    uniform = torch.rand(n, generator=generator)
    return MAX_TIME * (1 - uniform ** (1 / BETA_A))  # the inverse of Beta(a, 1)'s distribution function


def noisy(data: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """(x_t, velocity target) for data and noise [B, H, A] and time [B]: x_t = (1 - t) noise + t data."""
    t = time[:, None, None]
    return (1 - t) * noise + t * data, data - noise


def step_times(steps: int) -> list[float]:
    """The flow times at which so many Euler steps ask for a velocity."""
    return [step / steps for step in range(steps)]


def euler(velocity: Callable[[Tensor, float], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Integrate velocity(x, time) from noise at t = 0 to t = 1."""
    x = noise
    for time in step_times(steps):
        x = x + velocity(x, time) / steps
    return x
