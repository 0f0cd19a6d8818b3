"""Batches for the policy: windows from memory, intents from the cache or the model, made ahead by threads.

On a CPU a batch of 64 takes one or two milliseconds of a core to make, and one thread makes it while the step before it
computes: a training that is fed by this is as fast as one that is fed random numbers from memory. The intents of a
model of 7 billion parameters are 200 MB a batch, which several threads gather into memory that a GPU reads by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from blm.model.normalize import EmbodimentStatistics
from blm.model.policy_batch import PolicyBatch, PolicyGroup
from blm.pipelines.ahead import ahead
from blm.pipelines.windows.index import Share, WindowIndex
from blm.pipelines.windows.sources import IntentSource, Variant
from blm.pipelines.windows.windows import RobotWindows

AHEAD = 2
"""Batches that are made before they are asked for, by one thread."""


class PolicyFeed:
    """Batches of normalised windows with their intents."""

    def __init__(
        self,
        index: WindowIndex,
        statistics: Mapping[str, EmbodimentStatistics],
        intents: IntentSource,
        *,
        future: bool = True,
    ) -> None:
        """future: whether batches hold the intents of the frame one chunk later."""
        self.index = index
        self._statistics, self._intents, self._future = dict(statistics), intents, future

    def batch(
        self,
        rows: np.ndarray,
        place: np.ndarray | None = None,
        *,
        step: int | None = None,
        seed: int = 0,
    ) -> PolicyBatch:
        """The windows numbered `rows` int64 [B], rows of one robot together; on the CPU, but for intents that a model
        has just computed elsewhere.

        place: int64 [B], where each stands in the step over all workers; None: these are the step. step: phrasings and
        changes of pictures are drawn for it; None: frames are seen as they are, which is how validation sees them.
        """
        place = np.arange(len(rows)) if place is None else place
        robots, frames = self.index.locate(rows)
        phrasing, augmentation = draw_variants(
            place, step, seed, phrasings=self._intents.n_phrasings, augmentations=self._intents.n_augmentations
        )
        groups, present, future, order = [], [], [], []
        for robot in np.unique(robots):
            windows = self.index.windows[robot]
            here = np.flatnonzero(robots == robot)
            variant = Variant(phrasing=phrasing[here], augmentation=augmentation[here])
            groups.append(policy_group(windows, self._statistics[windows.name], frames[here]))
            present.append(self._intents.get(windows.name, frames[here], variant))
            if self._future:
                future.append(self._intents.get(windows.name, windows.future[frames[here]], variant))
            order.append(here)
        states, mask = _joined(present)
        future_states, future_mask = _joined(future) if self._future else (None, None)
        return PolicyBatch(
            groups=groups,
            intents=states,
            mask=mask,
            future_intents=future_states,
            future_mask=future_mask,
            place=torch.from_numpy(place[np.concatenate(order)]),
        )

    def steps(self, share: Share, first: int, last: int, *, device: torch.device) -> Iterator[PolicyBatch]:
        """A worker's share of each of the steps first..last - 1 on `device`, made ahead."""
        to_gpu = device.type == "cuda"
        threads = self._intents.threads if to_gpu else 1  # on a CPU the others have training to do

        def make(step: int) -> PolicyBatch:
            batch = self.batch(share.rows(step), share.place, step=step, seed=share.seed)
            return batch.pinned() if to_gpu else batch

        jobs = (partial(make, step) for step in range(first, last))
        for batch in ahead(jobs, depth=AHEAD + threads - 1, threads=threads):
            yield batch.to(device)


def draw_variants(
    place: np.ndarray, step: int | None, seed: int, *, phrasings: int, augmentations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Phrasing and augmentation int64 [B] of the rows at these places of a step: a pure function of its arguments."""
    if step is None or (phrasings <= 1 and augmentations == 0) or len(place) == 0:
        return np.zeros(len(place), dtype=np.int64), np.zeros(len(place), dtype=np.int64)
    draws = np.random.default_rng((seed, step, 1)).random((int(place.max()) + 1, 2))[place]
    wordings = np.floor(draws[:, 0] * phrasings).astype(np.int64)
    return wordings, np.floor(draws[:, 1] * (augmentations + 1)).astype(np.int64)


def policy_group(windows: RobotWindows, statistics: EmbodimentStatistics, frames: np.ndarray) -> PolicyGroup:
    """Normalised windows of one robot."""
    return PolicyGroup(
        embodiment=windows.name,
        state=torch.from_numpy(statistics.state.normalize(windows.state[frames])),
        actions=torch.from_numpy(statistics.action.normalize(windows.chunk[frames])),
        is_pad=torch.from_numpy(windows.is_pad[frames]),
    )


def _joined(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """States and masks of all robots.

    On a CPU NumPy joins them: PyTorch would share so large a copy among threads, and a second team of threads in the
    process makes OpenMP put waiting ones to sleep, which costs training a third of its speed.
    """
    if len(parts) == 1:
        return parts[0]
    states, masks = [states for states, _ in parts], [mask for _, mask in parts]
    if states[0].device.type != "cpu":
        return torch.cat(states), torch.cat(masks)
    joined = torch.from_numpy(np.concatenate([part.view(torch.int16).numpy() for part in states]))
    return joined.view(torch.bfloat16), torch.from_numpy(np.concatenate([mask.numpy() for mask in masks]))
