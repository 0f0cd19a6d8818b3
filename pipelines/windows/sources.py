"""Where the intents of a batch come from: the cache, or the frozen MLLM itself, in the loop.

Both answer the same question with the same bits, as long as no picture is changed: an intent is bfloat16 numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from blm.model.augment import AugmentConfig, augment
from blm.pipelines.intent_cache import IntentCache
from blm.pipelines.windows.dataset import RobotDataset

if TYPE_CHECKING:  # workers that read the cache have no use for transformers, which takes seconds to import
    from blm.model.intents import IntentExtractor

LIVE_AUGMENTATIONS = 2**31 - 1
"""Ways to change a picture when it is changed on the spot."""
Phrase = Callable[[str, int, int], str]
"""(robot, frame, number of the phrasing) -> instruction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """In which form each of n frames is seen; 0 is as it is."""

    phrasing: np.ndarray
    """int64 [n]."""
    augmentation: np.ndarray
    """int64 [n]."""

    @classmethod
    def plain(cls, n: int) -> "Variant":
        """Of n frames as they are."""
        return cls(phrasing=np.zeros(n, dtype=np.int64), augmentation=np.zeros(n, dtype=np.int64))


class IntentSource(Protocol):
    """Gives the intents of frames."""

    tokens: int
    """L."""
    width: int
    """c."""
    n_phrasings: int
    """Wordings of an instruction, the dataset's own among them."""
    n_augmentations: int
    """Ways in which pictures are changed, beside leaving them as they are."""
    threads: int
    """That may ask at once."""

    def get(self, robot: str, frames: np.ndarray, variant: Variant) -> tuple[Tensor, Tensor]:
        """States bfloat16 [n, L, c] and mask bool [n, L] of frames int64 [n] of a robot's dataset, in any order."""


class CachedIntents:
    """Intents out of the caches of several robots."""

    threads = 4  # copy as fast as a node's memory lets them

    def __init__(self, caches: Mapping[str, IntentCache]) -> None:
        self._caches = dict(caches)
        self.tokens = max(cache.tokens for cache in caches.values())
        self.width = next(iter(caches.values())).width
        self.n_phrasings = min(cache.n_phrasings for cache in caches.values())
        self.n_augmentations = min(cache.n_augmentations for cache in caches.values())

    def get(self, robot: str, frames: np.ndarray, variant: Variant) -> tuple[Tensor, Tensor]:
        """As `IntentSource.get`."""
        states, mask = self._caches[robot].rows(frames, phrasing=variant.phrasing, augmentation=variant.augmentation)
        return _widened(states, mask, self.tokens)


class LiveIntents:
    """Intents computed when they are asked for: nothing is stored, and pictures may be changed without limit."""

    threads = 1

    def __init__(
        self,
        extractor: "IntentExtractor",
        datasets: Mapping[str, RobotDataset],
        cameras: Sequence[str],
        change: AugmentConfig | None = None,
        *,
        phrase: Phrase | None = None,
        n_phrasings: int = 1,
    ) -> None:
        """change: how pictures are changed; None: not at all. phrase: says an instruction in other words."""
        self._extractor, self._datasets, self._cameras = extractor, dict(datasets), tuple(cameras)
        self._change, self._phrase = change, phrase
        self.tokens = max(extractor.length(one.picture_sizes_px(self._cameras)) for one in datasets.values())
        self.width = extractor.width
        self.n_phrasings = n_phrasings if phrase else 1
        self.n_augmentations = LIVE_AUGMENTATIONS if change else 0

    def get(self, robot: str, frames: np.ndarray, variant: Variant) -> tuple[Tensor, Tensor]:
        """As `IntentSource.get`; the pictures are decoded here."""
        dataset = self._datasets[robot]
        said = self.instructions(robot, frames, variant)
        return self.encode(dataset.pictures(frames, self._cameras), said, variant.augmentation)

    def instructions(self, robot: str, frames: np.ndarray, variant: Variant) -> list[str]:
        """What the robot is told at each frame."""
        said = self._datasets[robot].instruction_of(frames)
        if self._phrase is not None:
            for row in np.flatnonzero(variant.phrasing):
                said[row] = self._phrase(robot, int(frames[row]), int(variant.phrasing[row]))
        return said

    def encode(
        self, pictures: np.ndarray, instructions: Sequence[str], augmentation: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """States and mask of pictures uint8 [n, C, px, px, 3], changed as the seeds `augmentation` [n] say (0: not)."""
        tensor = torch.from_numpy(pictures)
        if self._change is not None and augmentation.any():
            tensor = augment(tensor, augmentation, self._change)
        # Bits must not depend on how many rows are computed together, or live and cached would differ.
        intents = self._extractor.encode_stacked(tensor, list(instructions), exact=True)
        return _widened(intents.states, intents.mask, self.tokens)


def _widened(states: Tensor, mask: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Padded to `tokens`: robots of several datasets may have intents of several lengths."""
    missing = tokens - states.shape[1]
    if missing == 0:
        return states, mask
    return torch.nn.functional.pad(states, (0, 0, 0, missing)), torch.nn.functional.pad(mask, (0, missing))
