"""How good the baseline's averaged weights are on episodes that training never sees."""

import torch
from torch import Tensor

from blm.model.diffusion_network import DiffusionBatch, DiffusionNetwork
from blm.pipelines import workers
from blm.pipelines.diffusion_baseline.data import Data, draws_of, on_device
from blm.pipelines.policy_training.heldout import rows_and_places
from blm.pipelines.policy_training.weights import Weights

HELD_OUT_BATCH = 64
MOST_HELD_OUT = 512
"""Of more held-out windows, as many evenly spaced ones."""


@torch.no_grad()
def held_out(weights: Weights, network: DiffusionNetwork, data: Data, device: torch.device) -> dict[str, float]:
    """`val_loss`, and `val_action`: how far sampled actions are from the demonstrated ones on average, in normalised
    units. Of the averaged weights, on episodes that training never sees, with the same noise every time.
    """
    rows, places = rows_and_places(data.index, most=MOST_HELD_OUT, otherwise=HELD_OUT_BATCH)
    draws = draws_of(data, seed=0, step=0, batch=len(rows), draws=1)
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    weights.swap_average()
    network.eval()
    for first in range(0, len(places), HELD_OUT_BATCH):
        part = places[first : first + HELD_OUT_BATCH]
        batch = on_device(data.feed.batch(rows[part], part), device)
        error, count = network(batch, draws)
        sums += torch.stack([error.double(), count.double(), *_distance(network, batch, draws.noise)])
    network.train()
    weights.swap_average()
    error, count, away, numbers = workers.summed(sums).tolist()
    return {"val_loss": round(error / count, 5), "val_action": round(away / numbers, 5)}


def _distance(network: DiffusionNetwork, batch: DiffusionBatch, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the distances of sampled actions from the true ones, and how many there are; robot by robot."""
    away, numbers = (torch.zeros((), dtype=torch.float64, device=batch.pictures.device) for _ in range(2))
    first = 0
    for group in batch.groups:
        rows = slice(first, first + len(group.state))
        first += len(group.state)
        alone = DiffusionBatch(
            groups=[group],
            pictures=batch.pictures[rows],
            instructions=batch.instructions[rows],
            place=batch.place[rows],
        )
        start = noise[alone.place, 0, :, : group.actions.shape[-1]].to(group.actions.device)
        sampled = network.sample(alone, start, network.config.sample_timesteps)
        real = (~group.is_pad).unsqueeze(-1)
        away = away + ((sampled - group.actions).abs() * real).sum().double()
        numbers = numbers + real.sum() * group.actions.shape[-1]
    return away, numbers
