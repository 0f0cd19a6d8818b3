"""From frames to the rows of a shard: what is new goes through the frozen MLLM, in full forward passes.

A distinct observation (the same pixels) with a distinct instruction is computed once, however many frames show it and
however many phrasings name it. Augmentations follow from the pixels and their number alone, so that a shard that is
made again comes out the same.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blm.model.augment import AugmentConfig, augment
from blm.model.intents import ROWS, IntentExtractor, IntentParts
from blm.pipelines.intent.phrasings import phrasings_of
from blm.pipelines.intent.shards import Shard
from blm.pipelines.intent.store import ErrorSum, Packed, Store, pack, unpack


@dataclass(frozen=True, kw_only=True, slots=True)
class Variants:
    """In how many ways every frame is kept."""

    phrasings: int = 1
    augmentations: int = 0
    """Beside the pictures as they are."""
    augment: AugmentConfig
    """How pictures are changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """Pictures that the model has to see."""

    pictures: np.ndarray
    """uint8 [cameras, H, W, 3]."""
    texts: tuple[str, ...]
    """Instructions it has not been asked with yet."""
    digest: bytes
    """Of the pictures."""
    is_new: bool
    """Whether the pictures have not been seen with any instruction."""


class ShardMaker:
    """Takes frames in order, and has a shard in the end."""

    def __init__(self, extractor: IntentExtractor, variants: Variants, store: Store) -> None:
        self._extractor, self._variants, self._store = extractor, variants, store
        self._picture_rows: dict[bytes, int] = {}
        self._text_rows: dict[tuple[bytes, str], int] = {}
        self._frames: list[tuple[int, ...]] = []
        self._pending: list[Observation] = []
        views = range(variants.augmentations + 1)
        self._pictures: list[list[Packed]] = [[] for _ in views]
        self._texts: list[list[Packed]] = [[] for _ in views]
        self._lengths: list[np.ndarray] = []
        self.error = ErrorSum()
        """Of storing, over the first forward pass."""
        self.first: list[Observation] = []
        """What went through the first forward pass."""

    def add(self, pictures: np.ndarray, instructions: Sequence[str]) -> None:
        """The next frames: uint8 [n, cameras, H, W, 3], and what the robot was told."""
        for seen, told in zip(pictures, instructions, strict=True):
            digest = hashlib.sha256(seen.tobytes()).digest()
            texts = phrasings_of(told, self._variants.phrasings)
            unasked = tuple(text for text in dict.fromkeys(texts) if (digest, text) not in self._text_rows)
            is_new = digest not in self._picture_rows
            if unasked:
                self._pending.append(Observation(pictures=seen, texts=unasked, digest=digest, is_new=is_new))
            if is_new:
                self._picture_rows[digest] = len(self._picture_rows)
            for text in unasked:
                self._text_rows[digest, text] = len(self._text_rows)
            self._frames.append((self._picture_rows[digest], *(self._text_rows[digest, text] for text in texts)))
        while len(self._pending) >= ROWS:
            self._compute(self._pending[:ROWS])
            del self._pending[:ROWS]

    def shard(self) -> Shard:
        """All frames given. No more may be added."""
        if self._pending:
            self._compute(self._pending)
            self._pending = []
        frames = np.array(self._frames, dtype=np.int32)
        longest = max(packed.values.shape[1] for packed in self._texts[0])
        return Shard(
            pictures=tuple(_joined(parts) for parts in self._pictures),
            texts=tuple(_joined([_padded(part, longest) for part in parts]) for parts in self._texts),
            lengths=np.concatenate(self._lengths).astype(np.int32),
            picture_of=frames[:, 0],
            text_of=frames[:, 1:],
        )

    def forward(self, extractor: IntentExtractor, observations: Sequence[Observation], view: int) -> IntentParts:
        """States of some observations in an augmentation, by this extractor or another."""
        pictures = torch.from_numpy(np.stack([one.pictures for one in observations]))
        if view:
            seeds = np.array([_seed(one.digest, view) for one in observations])
            pictures = augment(pictures, seeds, self._variants.augment)
        return extractor.parts(pictures, [one.texts for one in observations], exact=True)

    def _compute(self, observations: Sequence[Observation]) -> None:
        is_new = torch.tensor([one.is_new for one in observations])
        for view in range(self._variants.augmentations + 1):
            parts = self.forward(self._extractor, observations, view)
            real = torch.arange(parts.texts.shape[1], device=parts.texts.device)[None] < parts.lengths[:, None]
            self._keep(self._pictures[view], parts.pictures[is_new.to(parts.pictures.device)])
            self._keep(self._texts[view], parts.texts * real.unsqueeze(-1))
            if view == 0:
                self._lengths.append(parts.lengths.cpu().numpy())
        self.first = self.first or list(observations)

    def _keep(self, kept: list[Packed], states: Tensor) -> None:
        if not len(states):
            return
        packed = pack(states, self._store)
        if not self.first:
            self.error.add(unpack(packed), states.cpu())
        kept.append(packed)


def _seed(digest: bytes, view: int) -> int:
    """Of an augmentation of some pictures; never 0, which leaves them as they are."""
    return int.from_bytes(hashlib.sha256(digest + bytes([view])).digest()[:6]) + 1


def _padded(packed: Packed, length: int) -> Packed:
    missing = length - packed.values.shape[1]
    values = np.pad(packed.values, ((0, 0), (0, missing), (0, 0)))
    scales = None if packed.scales is None else np.pad(packed.scales, ((0, 0), (0, missing)))
    return Packed(values=values, scales=scales)


def _joined(parts: Sequence[Packed]) -> Packed:
    scales = [part.scales for part in parts if part.scales is not None]
    return Packed(
        values=np.concatenate([part.values for part in parts]), scales=np.concatenate(scales) if scales else None
    )
