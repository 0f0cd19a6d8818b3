"""Which conversation stands at which place of a training run, when it draws from several sources.

An endless stream of rows, each place a pure function of the seed and its number: a resumed run, or one with other
workers, sees the rows it would have seen. The stream is made of cycles. In a cycle every source has a fixed number of
places, in an order of its own; the rows of a source come in shuffled epochs, whatever stands between them.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blm.model.errors import UserError

CYCLE = 10_000
"""Places of a cycle where shares alone are given: a share is kept to one part in ten thousand."""
LONGEST_CYCLE = 1 << 28
"""Places of a cycle that a process still has room to shuffle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureEntry:
    """How much of one source there is; give epochs or weight. Sources that no entry names are not trained on."""

    source: str
    """Its name, as the corpora stage reports it."""
    epochs: float = 0.0
    """How often its rows occur while the rows of a source of one epoch occur once."""
    weight: float = 0.0
    """Its share of the conversations, relative to the other weights. Beside sources given by epochs: its share of all
    conversations, 0 to 1.
    """

    def __post_init__(self) -> None:
        if not self.source:
            raise UserError("an entry of the mixture names no source; give source, and epochs or weight")
        if not (0 <= self.epochs < np.inf and 0 <= self.weight < np.inf) or (self.epochs > 0) == (self.weight > 0):
            raise UserError(
                f"mixture of {self.source!r}: epochs is {self.epochs}, weight is {self.weight};"
                " give one of them, above 0"
            )


def check_mixture(entries: Sequence[MixtureEntry]) -> None:
    """UserError if a source stands twice, or weights beside epochs leave nothing for the others."""
    names = [entry.source for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"the mixture names {', '.join(twice)} more than once; give each source one entry")
    weights = sum(entry.weight for entry in entries)
    if any(entry.epochs for entry in entries) and weights >= 1:
        raise UserError(
            f"the mixture's weights add up to {weights:g} beside sources given by epochs; there they are shares of all"
            " conversations, so give less than 1 together, or give every source a weight"
        )


def row_order(n_rows: int, first: int, count: int, seed: int) -> np.ndarray:
    """Row indices at places first..first+count of an endless stream of shuffled epochs, int64 [count].

    A pure function of its arguments: a resumed run sees the rows it would have seen.
    """
    return _in_epochs(np.arange(first, first + count), n_rows, _Permutations((seed,)))


class _Permutations:
    """Shuffles of one thing after another, the last two kept: neighbouring steps need the same one."""

    def __init__(self, seed: tuple[int, ...]) -> None:
        self._seed = seed
        self._kept: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, number: int, length: int) -> np.ndarray:
        key = (number, length)
        if key not in self._kept:
            if len(self._kept) > 1:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = np.random.default_rng((*self._seed, number)).permutation(length)
        return self._kept[key]


def _in_epochs(places: np.ndarray, length: int, permutation: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """The numbers 0..length at places, which ascend, of a stream in which they come shuffled, epoch after epoch."""
    order = np.empty(len(places), dtype=np.int64)
    epochs, starts = np.unique(places // length, return_index=True)
    ends = np.append(starts, len(places))[1:]
    for epoch, start, end in zip(epochs, starts, ends, strict=True):
        order[start:end] = permutation(int(epoch), length)[places[start:end] % length]
    return order


class Stream:
    """The rows of a corpus in the order of training.

    sources: the source of each row, in the order of the rows. entries: none is every row once an epoch, which is
    `row_order`. UserError if an entry names a source that has no rows, and for what `check_mixture` refuses.
    """

    def __init__(self, sources: Sequence[str], entries: Sequence[MixtureEntry], seed: int) -> None:
        check_mixture(entries)
        found, number = np.unique(np.asarray(sources, dtype=object).astype(str), return_inverse=True)
        members = {str(name): np.flatnonzero(number == i) for i, name in enumerate(found)}
        self.sources: dict[str, int] = {name: len(rows) for name, rows in members.items()}
        """Rows of each source that is there."""
        missing = sorted({entry.source for entry in entries} - members.keys())
        if missing:
            raise UserError(
                f"the mixture names {', '.join(missing)}, but the corpus has {', '.join(members) or 'no rows'}; mend"
                " stage1.mixture, or add the source to corpora.sources"
            )
        self._n, self._rows_of = len(sources), members
        self._mixed, self._seed = bool(entries), seed
        self._epochs = _Permutations((seed,))
        self._kept: tuple[int, np.ndarray, np.ndarray] = (-1, np.zeros(0), np.zeros(0))
        self._names = [entry.source for entry in sorted(entries, key=lambda entry: entry.source)]
        self._members = [members[name] for name in self._names]
        self._shuffles = [_Permutations((seed, zlib.crc32(name.encode()))) for name in self._names]
        self._counts = _places_of_a_cycle(entries, self.sources) if entries else np.zeros(0, np.int64)
        self.cycle: int = int(self._counts.sum()) if entries else len(sources)
        """Conversations after which the shares are exact."""

    def rows(self, first: int, count: int) -> np.ndarray:
        """Row indices at places first..first+count, int64 [count]. Any place may be asked for at any time."""
        places = np.arange(first, first + count, dtype=np.int64)
        if not self._mixed:
            return _in_epochs(places, self._n, self._epochs)
        order = np.empty(count, dtype=np.int64)
        for cycle in np.unique(places // self.cycle):
            here = places // self.cycle == cycle
            owners, turns = self._seats(int(cycle))
            within = places[here] % self.cycle
            found = np.empty(len(within), dtype=np.int64)
            for i, members in enumerate(self._members):
                chosen = owners[within] == i
                nth = int(cycle) * self._counts[i] + turns[within[chosen]]
                found[chosen] = members[_in_epochs(nth, len(members), self._shuffles[i])]
            order[here] = found
        return order

    def _seats(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """For every place of a cycle: the number of the source it belongs to, and how many of it stand before."""
        if self._kept[0] != cycle:
            owners = np.repeat(np.arange(len(self._counts), dtype=np.int32), self._counts)
            owners = owners[np.random.default_rng((self._seed, cycle)).permutation(len(owners))]
            turns = np.empty(len(owners), dtype=np.int64)
            for i, n in enumerate(self._counts):
                turns[owners == i] = np.arange(n)
            self._kept = (cycle, owners, turns)
        return self._kept[1:]

    def report(self, lengths: np.ndarray, answer_lengths: np.ndarray, count: int | None = None) -> dict[str, Any]:
        """The mix in effect, by source: its rows, and its shares of conversations, tokens and answer tokens.

        lengths, answer_lengths: tokens of each row and those of them that are learned. count: conversations of the
        whole run, which are then counted one by one, with the epochs that each source gets; by default, one cycle.
        """
        lengths, answer_lengths = np.asarray(lengths), np.asarray(answer_lengths)
        total = count if count is not None else self.cycle
        drawn = np.zeros(self._n, dtype=np.int64)
        for start in range(0, total, 1 << 20):
            np.add.at(drawn, self.rows(start, min(1 << 20, total - start)), 1)
        weights = {"conversations": drawn, "tokens": drawn * lengths, "answer_tokens": drawn * answer_lengths}
        found: dict[str, Any] = {}
        for name, members in self._rows_of.items():
            shares = {
                f"share_of_{what}": round(float(amount[members].sum() / max(amount.sum(), 1)), 4)
                for what, amount in weights.items()
            }
            epochs = round(float(drawn[members].sum() / len(members)), 3)
            found[name] = {"rows": len(members), "epochs": epochs} | shares
        return found


def _places_of_a_cycle(entries: Sequence[MixtureEntry], sizes: dict[str, int]) -> np.ndarray:
    """How many places of a cycle each source has, int64, by name; at least one."""
    ordered = sorted(entries, key=lambda entry: entry.source)
    visits = np.array([entry.epochs * sizes[entry.source] for entry in ordered])
    weights = np.array([entry.weight for entry in ordered])
    if visits.any():
        total = visits.sum() / (1 - weights.sum())
        exact = np.where(weights > 0, weights * total, visits)
    else:
        exact = weights / weights.sum() * CYCLE
    if exact.min() < 1:  # every source has a place: make the cycle longer
        exact = exact / exact.min()
    if exact.sum() > LONGEST_CYCLE:
        raise UserError(
            f"the mixture gives {ordered[int(exact.argmin())].source} too small a share beside the others; give it"
            " more, or leave it out"
        )
    counts = np.floor(exact + 1e-9).astype(np.int64)
    missing = round(float(exact.sum())) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts
