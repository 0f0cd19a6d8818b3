"""PyTorch's draws by a seed, on the CPU alone.

`torch.manual_seed` also seeds every kind of accelerator; where there is none it keeps a stack trace each time, which
costs more than all the draws of a scene.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws follow from the seed inside, and go on outside as if nothing had been."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
