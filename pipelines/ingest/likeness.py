"""When two pictures, or two texts, count as nearly equal; the same rule for duplicates and for benchmark items."""

import numpy as np

from blm.pipelines.ingest.sketches import SIGNATURE

Pictures = dict[str, np.ndarray]
"""Sketches side by side, as `sketches.picture_arrays` makes them."""

COARSE_BITS = 3
"""Of 64 rises of brightness, those in which near pictures may differ. One less than BANDS, so that near pictures
agree in a whole band.
"""
FINE_BITS = 12
"""Of 272."""
COLOR_STEPS = 8
"""Of 255, in any of sixteen cells."""
LEAST_STRUCTURE = 12
"""A picture with fewer rises of brightness (a black frame, a wall) is like many others: only equal bytes count."""
BANDS = 4
BAND_BITS = 16
TEXT_SHARE = 0.9
"""Of the runs of words in both texts together, those that near texts have in common, as estimated."""

_FINE_BYTES = 34


def near_pictures(a: Pictures, i: np.ndarray, b: Pictures, j: np.ndarray) -> np.ndarray:
    """Whether pictures i of `a` and pictures j of `b` are equal or nearly so, pair by pair, bool [N]."""
    same = a["digest"][i] == b["digest"][j]
    coarse = np.bitwise_count(a["coarse"][i] ^ b["coarse"][j]) <= COARSE_BITS
    maybe = np.flatnonzero(coarse & ~same)
    one, other = a["detail"][i[maybe]], b["detail"][j[maybe]]
    fine = [np.bitwise_count(side[:, :_FINE_BYTES]).sum(axis=1, dtype=np.int64) for side in (one, other)]
    differing = np.bitwise_count(one[:, :_FINE_BYTES] ^ other[:, :_FINE_BYTES]).sum(axis=1, dtype=np.int64)
    colors = np.abs(one[:, _FINE_BYTES:].astype(np.int16) - other[:, _FINE_BYTES:]).max(axis=1, initial=0)
    structured = np.minimum(*fine) >= LEAST_STRUCTURE
    same[maybe] = structured & (differing <= FINE_BITS) & (colors <= COLOR_STEPS)
    return same


def near_texts(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether texts of MinHash signatures uint32 [N, SIGNATURE] are nearly equal, pair by pair, bool [N]."""
    return (a == b).sum(axis=1) >= TEXT_SHARE * SIGNATURE


def band(coarse: np.ndarray, number: int) -> np.ndarray:
    """One of BANDS parts of the coarse hashes, int64 [N] below 2**BAND_BITS."""
    return ((coarse >> np.uint64(number * BAND_BITS)) & np.uint64(2**BAND_BITS - 1)).astype(np.int64)


class PictureIndex:
    """Pictures that others are compared with."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self._digests = np.sort(pictures["digest"])
        self._members: list[np.ndarray] = []
        self._starts: list[np.ndarray] = []
        for number in range(BANDS):
            keys = band(pictures["coarse"], number)
            self._members.append(np.argsort(keys, kind="stable"))
            counts = np.bincount(keys, minlength=2**BAND_BITS)
            self._starts.append(np.concatenate([[0], np.cumsum(counts)]))

    def __len__(self) -> int:
        return len(self._digests)

    def has(self, pictures: Pictures) -> np.ndarray:
        """Whether each picture is equal or nearly equal to one of the index, bool [N]."""
        n = len(pictures["digest"])
        if not len(self) or not n:
            return np.zeros(n, dtype=bool)
        places = np.minimum(np.searchsorted(self._digests, pictures["digest"]), len(self) - 1)
        found = self._digests[places] == pictures["digest"]
        for number in range(BANDS):
            keys = band(pictures["coarse"], number)
            counts = self._starts[number][keys + 1] - self._starts[number][keys]
            counts[found] = 0
            for some in _groups(counts):
                asked = np.repeat(some, counts[some])
                within = np.arange(len(asked)) - np.repeat(np.cumsum(counts[some]) - counts[some], counts[some])
                members = self._members[number][self._starts[number][keys[asked]] + within]
                near = near_pictures(pictures, asked, self.pictures, members)
                found[asked[near]] = True
        return found


def _groups(counts: np.ndarray, most: int = 1 << 18) -> list[np.ndarray]:
    """The numbers of entries above zero, in groups whose counts add up to about `most`, so that memory is bounded."""
    waiting = np.flatnonzero(counts)
    if not len(waiting):
        return []
    group = np.cumsum(counts[waiting]) // most
    return np.split(waiting, np.flatnonzero(np.diff(group)) + 1)
