"""Quantiles of columns of any length in one pass: sketches of pieces that add up to the sketch of the whole.

A value is counted in a bin whose bounds grow by a fixed ratio (the idea of DDSketch, arXiv 1908.10693): what comes out
for a rank is within RELATIVE_ERROR of the value at that rank. Counts add up, so the result depends neither on how rows
were divided among workers nor on who was finished first. Least and greatest value are exact.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from blm.model.embodiments import EMBODIMENTS
from blm.model.errors import UserError
from blm.model.layout import Layout
from blm.model.normalize import MIN_HALF_SPREAD, EmbodimentStatistics, Quantiles
from blm.pipelines.windows.windows import RobotWindows

RELATIVE_ERROR = 5e-4
SMALLEST = 1e-6
"""What is nearer to zero counts as zero."""
LOW, HIGH = 0.01, 0.99
FOREIGN_SPREAD, FOREIGN_HALF_SPREAD = 1e-3, 0.05
"""What `MIN_SPREAD` and `MIN_HALF_SPREAD` are for robots whose units nobody knows: shares of a dimension's range, and
of its greatest half spread over the steps of a chunk."""
NOTHING = 1e-9
"""A range that is rounding alone."""
_STEP = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
_ZERO = 1 << 40
"""Bin number of zero; those of negative values lie below it."""
_SPAN = 1 << 42
"""Codes of a dimension lie between its number times this and the next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sketch:
    """How the values of D dimensions are spread; dimensions may have different numbers of them."""

    codes: np.ndarray
    """int64, ascending: dimension and bin of each bin that holds something."""
    counts: np.ndarray
    """int64, how many values it holds."""
    least: np.ndarray
    """float64 [D]; inf where there is no value."""
    greatest: np.ndarray
    """float64 [D]; -inf where there is no value."""

    @classmethod
    def of(cls, values: np.ndarray, real: np.ndarray | None = None) -> "Sketch":
        """Of finite values [N, D]; real: bool [N, D], those that count."""
        values = values.astype(np.float64)
        kept = np.ones(values.shape, dtype=bool) if real is None else real
        size = np.abs(values)
        bins = np.ceil(np.log(np.maximum(size, SMALLEST) / SMALLEST) / _STEP).astype(np.int64)
        codes = np.sign(values).astype(np.int64) * np.where(size < SMALLEST, 0, bins + 1) + _ZERO
        found, counts = np.unique((codes + np.arange(values.shape[1]) * _SPAN)[kept], return_counts=True)
        return cls(
            codes=found,
            counts=counts,
            least=np.where(kept, values, np.inf).min(axis=0, initial=np.inf),
            greatest=np.where(kept, values, -np.inf).max(axis=0, initial=-np.inf),
        )

    @classmethod
    def joined(cls, sketches: Sequence["Sketch"]) -> "Sketch":
        """Of everything that one or more sketches have seen, in any order."""
        codes, where = np.unique(np.concatenate([one.codes for one in sketches]), return_inverse=True)
        counts = np.zeros(len(codes), dtype=np.int64)
        np.add.at(counts, where, np.concatenate([one.counts for one in sketches]))
        return cls(
            codes=codes,
            counts=counts,
            least=np.minimum.reduce([one.least for one in sketches]),
            greatest=np.maximum.reduce([one.greatest for one in sketches]),
        )

    @property
    def n(self) -> np.ndarray:
        """Values of each dimension, int64 [D]."""
        n = np.zeros(len(self.least), dtype=np.int64)
        np.add.at(n, self.codes // _SPAN, self.counts)
        return n

    def quantile(self, share: float) -> np.ndarray:
        """The value below which this share of a dimension's values lies, between ranks interpolated, float64 [D].

        ValueError for a dimension without values.
        """
        n = self.n
        if not n.all():
            raise ValueError("quantiles of nothing")
        rank = share * (n - 1)
        floor = np.floor(rank).astype(np.int64)
        low, high = self._at(n, floor), self._at(n, np.ceil(rank).astype(np.int64))
        return np.clip(low + (high - low) * (rank - floor), self.least, self.greatest)

    def _at(self, n: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """The value at a rank of each dimension."""
        before = np.cumsum(n) - n
        places = np.searchsorted(np.cumsum(self.counts), before + rank, side="right")
        bins = self.codes[places] % _SPAN - _ZERO
        middle = SMALLEST * np.exp((np.abs(bins) - 1) * _STEP) * (1 - RELATIVE_ERROR)
        return np.sign(bins) * middle

    def chosen(self, dims: np.ndarray) -> "Sketch":
        """Of the dimensions `dims` int64 [K], in that order; one may stand several times."""
        owner = self.codes // _SPAN
        parts = [np.flatnonzero(owner == dim) for dim in dims]
        codes = [self.codes[part] % _SPAN + place * _SPAN for place, part in enumerate(parts)]
        return Sketch(
            codes=np.concatenate(codes),
            counts=np.concatenate([self.counts[part] for part in parts]),
            least=self.least[dims],
            greatest=self.greatest[dims],
        )


def statistics_of(windows: Iterable[RobotWindows], cells: Sequence[str] = ()) -> dict[str, EmbodimentStatistics]:
    """Statistics of each robot's training windows, or of those of some cells; padding does not count.

    UserError for a robot without any.
    """
    statistics = {}
    for robot in windows:
        groups = [name for name in robot.group_names if not cells or name in cells]
        if not groups or not any(robot.sketches[name, "state"].n.any() for name in groups):
            raise UserError(
                f"{robot.name} has no demonstrations to train on{' in ' + ', '.join(cells) if cells else ''}; collect"
                " some, or leave the robot out"
            )
        state, action = (Sketch.joined([robot.sketches[name, kind] for name in groups]) for kind in ("state", "action"))
        statistics[robot.name] = EmbodimentStatistics(
            state=_quantiles(state, robot.layout, (robot.layout.state_dim,)),
            action=_quantiles(action, robot.layout, robot.chunk.shape[1:]),
        )
    return statistics


def _quantiles(sketch: Sketch, layout: Layout, shape: tuple[int, ...]) -> Quantiles:
    """Quantiles of states [S], or of chunks [H, A], step by step; a step that is padding everywhere takes those of the
    step before it."""
    dims = np.arange(len(sketch.least)).reshape(-1, shape[-1])
    for step in range(1, len(dims)):
        if not sketch.n[dims[step]].all():
            dims[step] = dims[step - 1]
    sketch = sketch.chosen(dims.reshape(-1))
    low, high, least, greatest = (
        level.reshape(shape) for level in (sketch.quantile(LOW), sketch.quantile(HIGH), sketch.least, sketch.greatest)
    )
    chunks = len(shape) > 1
    if layout.name in EMBODIMENTS:
        return Quantiles.between(low, high, least, greatest, min_half_spread=MIN_HALF_SPREAD if chunks else 0.0)
    steps = tuple(range(len(shape) - 1))
    span = greatest.max(axis=steps) - least.min(axis=steps)
    half = (high - low).max(axis=steps) / 2 * FOREIGN_HALF_SPREAD if chunks else np.zeros(shape)
    return Quantiles.between(
        low, high, least, greatest, min_spread=np.maximum(span * FOREIGN_SPREAD, NOTHING), min_half_spread=half
    )
