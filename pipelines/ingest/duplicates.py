"""Rows that come up more than once.

Of rows with equal normalised text and equal pictures, and of rows nearly equal in text and in every picture, the first
in the canonical order stays. Which rows are compared is found by sorting: near texts agree, almost surely, in one of
twelve parts of their signatures, near pictures for certain in one of four parts of their coarse hashes; rows that
agree in both are looked at closely. Nothing here depends on how the rows were shared among workers.
"""

from dataclasses import dataclass

import numpy as np

from blm.pipelines.ingest.likeness import BANDS, Pictures, band, near_pictures, near_texts
from blm.pipelines.ingest.sketches import SIGNATURE

TEXT_BANDS = 12
NEIGHBOURS = 3
"""In a set of rows that agree in a part, each is compared with the first and with this many before it: sets can be
large, and their near rows are next to each other or near the first.
"""
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(31)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sketches:
    """What is remembered of many rows, in the canonical order."""

    exact: np.ndarray
    """uint64 [N, 2]"""
    signature: np.ndarray
    """uint32 [N, SIGNATURE]"""
    shape: np.ndarray
    """Stands for the numbers of pictures and frames, uint64 [N]."""
    starts: np.ndarray
    """Row i's pictures are those from starts[i] to starts[i + 1], int64 [N + 1]."""
    pictures: Pictures
    """Of all rows."""

    def __len__(self) -> int:
        return len(self.exact)


def exact_duplicates(exact: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Rows whose 128 bits were taken before, or stand at an earlier row, bool [N].

    exact: uint64 [N, 2]. taken: uint64 [M, 2].
    """
    both = np.concatenate([taken, exact])
    order = np.lexsort((both[:, 1], both[:, 0]))  # stable: equal ones stay in their order
    repeated = np.zeros(len(both), dtype=bool)
    repeated[order[1:]] = (both[order[1:]] == both[order[:-1]]).all(axis=1)
    return repeated[len(taken) :]


def near_duplicates(sketches: Sketches, compared: np.ndarray) -> np.ndarray:
    """Rows nearly equal to an earlier row that stays, bool [N]. compared: bool [N], the rows that take part."""
    found: list[np.ndarray] = []
    rows = np.flatnonzero(compared)
    shows = sketches.starts[rows + 1] > sketches.starts[rows]
    for number in range(TEXT_BANDS):
        keys = _text_keys(sketches, rows, number)
        found.append(_verified(sketches, _pairs(rows[~shows], keys[~shows])))
        looking, first = rows[shows], sketches.starts[rows[shows]]
        for part in range(BANDS):
            seen = band(sketches.pictures["coarse"][first], part).astype(np.uint64) + np.uint64(part << 20)
            found.append(_verified(sketches, _pairs(looking, _mixed(keys[shows], seen))))
    pairs = np.unique(np.concatenate(found), axis=0)
    repeated = np.zeros(len(sketches), dtype=bool)
    for later, earlier in pairs.tolist():  # by the later row: what stands before it is decided
        repeated[later] |= not repeated[earlier]
    return repeated


def _mixed(keys: np.ndarray, more: np.ndarray) -> np.ndarray:
    keys = (keys ^ more) * _MIX
    return keys ^ (keys >> _SHIFT)


def _text_keys(sketches: Sketches, rows: np.ndarray, number: int) -> np.ndarray:
    """A number for one part of each row's signature and for its shape, uint64 [N]."""
    width = SIGNATURE // TEXT_BANDS
    keys = sketches.shape[rows] + np.uint64(number << 40)
    for column in range(number * width, (number + 1) * width):
        keys = _mixed(keys, sketches.signature[rows, column].astype(np.uint64))
    return keys


def _pairs(rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Rows of one key, each with earlier ones: int64 [P, 2] as (later, earlier). rows ascend."""
    order = np.argsort(keys, kind="stable")
    in_order, places = keys[order], np.arange(len(order))
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = in_order[1:] != in_order[:-1]
    first = np.maximum.accumulate(np.where(begins, places, 0))
    later, earlier = [places[places > first]], [first[places > first]]
    for distance in range(1, NEIGHBOURS + 1):
        some = places[places - distance > first]
        later.append(some)
        earlier.append(some - distance)
    return np.stack([rows[order[np.concatenate(later)]], rows[order[np.concatenate(earlier)]]], axis=1)


def _verified(sketches: Sketches, pairs: np.ndarray, chunk: int = 1 << 16) -> np.ndarray:
    """Those pairs whose texts are near and whose pictures, one by one, are too."""
    kept = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(pairs), chunk):
        some = pairs[start : start + chunk]
        some = some[near_texts(sketches.signature[some[:, 0]], sketches.signature[some[:, 1]])]
        counts = sketches.starts[some + 1] - sketches.starts[some]
        some, counts = some[counts[:, 0] == counts[:, 1]], counts[counts[:, 0] == counts[:, 1], 0]
        owner = np.repeat(np.arange(len(some)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        one, other = (sketches.starts[some[owner, side]] + within for side in (0, 1))
        far = ~near_pictures(sketches.pictures, one, sketches.pictures, other)
        kept.append(some[np.bincount(owner[far], minlength=len(some)) == 0])
    return np.concatenate(kept)
