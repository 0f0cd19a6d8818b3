"""Tokenised conversations, and how several become one packed sequence.

Shapes: D documents (conversations), T tokens in all, P kinds of position (3 for multimodal rotary positions, else 1),
M pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from blm.model.documents import Documents
from blm.model.errors import UserError
from blm.model.prompts import IGNORE_INDEX

N_POINTS = 3
"""Points whose place in a picture may be known: gripper, object and goal."""
TEMPORAL_PATCH = 2  # frames of a video that become one set of tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class RowMedia:
    """Pictures and videos of one conversation as its model's vision part wants them (`ChatEncoder.media`)."""

    images: tuple[np.ndarray, ...] = ()
    """uint8 [H, W, 3] each, of whole tokens; for families with a batched vision path."""
    videos: tuple[np.ndarray, ...] = ()
    """uint8 [F, H, W, 3] each, F even."""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """For the other families: what their own forward takes, by keyword."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedRow:
    """One tokenised conversation with its media."""

    input_ids: np.ndarray
    """int32 [L]."""
    labels: np.ndarray
    """int32 [L], IGNORE_INDEX where no loss counts."""
    positions: np.ndarray
    """int32 [P, L]."""
    media: RowMedia = field(default_factory=RowMedia)
    points_px: np.ndarray = field(default_factory=lambda: np.zeros((0, N_POINTS, 2), dtype=np.float32))
    """float32 [M, 3, 2] true pixel (x, y) of gripper, object and goal in each picture; NaN without simulator truth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Pictures of one size, or pairs of frames of one size."""

    pixels: Tensor
    """uint8 [N, H, W, 3], or [N, 2, H, W, 3]."""
    places: tuple[int, ...]
    """Which of all pictures (or pairs of frames) of the batch, in order of the text, they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBatch:
    """Conversations one behind the other in one sequence, and all their media."""

    input_ids: Tensor
    """int64 [1, T]."""
    answers: Tensor
    """int64 [N]: the places whose next token is an answer token."""
    targets: Tensor
    """int64 [N]: those tokens."""
    positions: Tensor
    """int64 [P, 1, T]."""
    documents: Documents
    """Their lengths; padding, if any, is one more document at the end."""
    rows: int
    """D, without the padding."""
    images: tuple[Stack, ...]
    videos: tuple[Stack, ...]
    inputs: Mapping[str, Tensor]
    """As in `RowMedia`, of all rows."""
    points_px: Tensor
    """float32 [M, 3, 2], NaN where unknown."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each of the D documents."""
        return self.documents.lengths[: self.rows]

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return self.documents.longest

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The batch on `device`."""

        def stacks(group: tuple[Stack, ...]) -> tuple[Stack, ...]:
            return tuple(Stack(pixels=s.pixels.to(device, non_blocking=True), places=s.places) for s in group)

        return PackedBatch(
            input_ids=self.input_ids.to(device),
            answers=self.answers.to(device),
            targets=self.targets.to(device),
            positions=self.positions.to(device),
            documents=self.documents.to(device),
            rows=self.rows,
            images=stacks(self.images),
            videos=stacks(self.videos),
            inputs={name: tensor.to(device) for name, tensor in self.inputs.items()},
            points_px=self.points_px.to(device),
        )


def pack(rows: Sequence[EncodedRow], *, pad_token_id: int, pad_to: int = 0) -> PackedBatch:
    """One sequence of all rows, filled up with padding to a multiple of `pad_to` tokens (0: none)."""
    lengths = [len(row.input_ids) for row in rows]
    filling = -sum(lengths) % pad_to if pad_to else 0
    ids = [row.input_ids for row in rows]
    labels = [row.labels for row in rows]
    positions = [row.positions for row in rows]
    if filling:
        ids.append(np.full(filling, pad_token_id))
        labels.append(np.full(filling, IGNORE_INDEX))
        positions.append(np.broadcast_to(np.arange(filling), (len(positions[0]), filling)))
        lengths.append(filling)
    following = np.concatenate(labels)
    following[np.cumsum(lengths) - lengths] = IGNORE_INDEX  # what stands before a first token is another conversation
    answers = (following[1:] != IGNORE_INDEX).nonzero()[0]
    media = [row.media for row in rows]
    pairs = [pair for m in media for video in m.videos for pair in video.reshape(-1, TEMPORAL_PATCH, *video.shape[1:])]
    return PackedBatch(
        input_ids=_long(np.concatenate(ids))[None],
        answers=_long(answers),
        targets=_long(following[answers + 1]),
        positions=_long(np.concatenate(positions, axis=1))[:, None],
        documents=Documents.of(lengths),
        rows=len(rows),
        images=_stacks([image for m in media for image in m.images]),
        videos=_stacks(pairs),
        inputs=join_inputs(media),
        points_px=torch.from_numpy(np.concatenate([row.points_px for row in rows])),
    )


def count_targets(row: EncodedRow) -> tuple[int, int]:
    """(answer tokens that carry loss, pictures whose points are known) of a row. The first token carries none."""
    known = ~np.isnan(row.points_px).any(axis=(1, 2))
    return int((row.labels[1:] != IGNORE_INDEX).sum()), int(known.sum())


def join_inputs(media: Sequence[RowMedia]) -> dict[str, Tensor]:
    """What the forward of a family without batched vision takes for all these conversations. UserError where those of
    one cannot stand behind those of another.
    """
    parts: dict[str, list[Tensor]] = {}
    for row in media:
        for name, tensor in row.inputs.items():
            parts.setdefault(name, []).append(tensor)
    for name, tensors in parts.items():
        if len({tensor.shape[1:] for tensor in tensors}) > 1:
            shapes = " and ".join(str(list(tensor.shape)) for tensor in tensors[:2])
            raise UserError(f"{name} of two conversations ({shapes}) cannot be packed; take pictures of one size")
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def _long(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def _stacks(pictures: Sequence[np.ndarray]) -> tuple[Stack, ...]:
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, picture in enumerate(pictures):
        by_shape.setdefault(picture.shape, []).append(place)
    return tuple(
        Stack(pixels=torch.from_numpy(np.stack([pictures[i] for i in places])), places=tuple(places))
        for places in by_shape.values()
    )
