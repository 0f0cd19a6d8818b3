"""Where the documents of a packed sequence begin and end, and how attention gathers them.

Several conversations stand one behind the other in one sequence without padding; each may look only at itself. On a
GPU a variable-length kernel takes the boundaries as they are. Elsewhere documents of like length are gathered into
batches, attended as usual and put back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

LENGTH_RATIO = 1.25  # a batch's longest document is at most about this many times its shortest
LENGTH_STEP = 16  # batches are filled up to a multiple of it: CPU libraries compile a kernel for each new shape
LENGTH_SLACK = 8  # tokens; very short documents share a batch whatever their ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Indices that gather rows of a packed sequence into batches, and back; a row is one head of one token."""

    shapes: tuple[tuple[int, int], ...]
    """(documents, longest) of each batch, in order."""
    query: Tensor
    """int64 [Q]: the rows of all batches' queries, each batch [documents, groups, heads a group, longest]."""
    key: Tensor
    """int64 [K]: the same of keys and values, each batch [documents, groups, longest]."""
    query_back: Tensor
    """int64 [T * heads]: where in the batches each row of the sequence stands."""
    key_back: Tensor
    """int64 [T * groups]."""
    padding: Tensor
    """int64: places in the batches' queries that are padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """The documents of one packed sequence. Passed through a model's forward as the keyword `documents`."""

    lengths: tuple[int, ...]
    """Tokens of each document; together those of the sequence."""
    cumulative: Tensor
    """int32 [D + 1]: where documents begin and end."""
    longest: int
    """Tokens of the longest one."""
    _layouts: dict[tuple[int, int], Layout] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Documents":
        """Documents of these lengths, on the CPU."""
        cumulative = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        cumulative[1:] = torch.tensor(lengths, dtype=torch.int32).cumsum(0)
        return cls(lengths=tuple(lengths), cumulative=cumulative, longest=max(lengths))

    def to(self, device: torch.device | str) -> "Documents":
        """The same with its tensor on `device`."""
        return Documents(lengths=self.lengths, cumulative=self.cumulative.to(device), longest=self.longest)

    def layout(self, heads: int, groups: int) -> Layout:
        """The gathering for queries of `heads` heads and keys of `groups` heads; made once, for all layers."""
        if (heads, groups) not in self._layouts:
            self._layouts[heads, groups] = make_layout(self.lengths, heads, groups, self.cumulative.device)
        return self._layouts[heads, groups]


def make_layout(lengths: Sequence[int], heads: int, groups: int, device: torch.device) -> Layout:
    """Batches of documents of like length, longest first; short ones are filled up with copies of their last token."""
    sizes = np.asarray(lengths)
    starts = np.cumsum(sizes) - sizes
    per_group = heads // groups
    head_of = np.arange(heads).reshape(groups, per_group)
    query, key, shapes = [], [], []
    query_real, key_real = [], []
    for batch in _batches(sizes):
        longest = -(-int(sizes[batch[0]]) // LENGTH_STEP) * LENGTH_STEP
        shapes.append((len(batch), longest))
        place = np.arange(longest)
        token = starts[batch][:, None] + np.minimum(place, sizes[batch][:, None] - 1)
        real = place < sizes[batch][:, None]
        rows = token[:, None, None, :] * heads + head_of[None, :, :, None]
        query.append(rows.ravel())
        query_real.append(np.broadcast_to(real[:, None, None, :], rows.shape).ravel())
        rows = token[:, None, :] * groups + np.arange(groups)[None, :, None]
        key.append(rows.ravel())
        key_real.append(np.broadcast_to(real[:, None, :], rows.shape).ravel())
    query_rows, key_rows = np.concatenate(query), np.concatenate(key)
    real_queries, real_keys = np.concatenate(query_real), np.concatenate(key_real)
    tensors = {
        "query": query_rows,
        "key": key_rows,
        "query_back": _inverse(query_rows, real_queries),
        "key_back": _inverse(key_rows, real_keys),
        "padding": np.flatnonzero(~real_queries),
    }
    return Layout(shapes=tuple(shapes), **{name: torch.from_numpy(a).to(device) for name, a in tensors.items()})


def _batches(sizes: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(-sizes, kind="stable")
    cuts, longest = [], sizes[order[0]]
    for place, size in enumerate(sizes[order]):
        if longest > size * LENGTH_RATIO + LENGTH_SLACK:
            cuts.append(place)
            longest = size
    return np.split(order, cuts)


def _inverse(rows: np.ndarray, real: np.ndarray) -> np.ndarray:
    places = np.flatnonzero(real)
    back = np.empty(len(places), dtype=np.int64)
    back[rows[places]] = places
    return back
