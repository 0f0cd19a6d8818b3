"""How long after an action the state follows it: the shift at which their changes are most alike.

A policy learns what its data show. If actions were recorded late, it learns to act on what it will only see later; if
the robot follows slowly, whoever executes the policy must know. The measure is the correlation of the changes of
actions with the changes of states some frames later, summed over episodes and over the joints of a group; between
frames, a parabola through the best three. With a robot that has reached its target when the next frame is taken, the
lag is one frame.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

LONGEST_S = 1.0
"""Shifts are tried up to that, either way."""
CLEAR = 0.5
"""A correlation below this says nothing about the lag."""
LEAST_FRAMES = 8
"""Shorter episodes are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lag:
    """How a group of values follows its actions."""

    group: str
    """What the values are, for example `arm`."""
    kind: str
    """`absolute` if actions are like positions, `relative` if they are like changes of position."""
    frames: float
    """Frames from an action to the state that follows it; negative if the state comes first."""
    seconds: float
    """The same in seconds."""
    correlation: float
    """At that shift, from -1 to 1."""
    curve: tuple[tuple[float, float], ...]
    """(shift in seconds, correlation)."""


class LagMeter:
    """Adds up correlations of one group of action values and the state values that they command."""

    def __init__(self, group: str, columns: tuple[int, ...], fps: float) -> None:
        self.group = group
        self.columns = list(columns)
        self.fps = fps
        self.most = max(2, math.ceil(LONGEST_S * fps))
        size = 2 * self.most + 1
        # first row: actions as positions; second row: actions as changes
        self._products = np.zeros((2, size))
        self._energy = np.zeros((2, 2))

    def add(self, action: Array, state: Array) -> float | None:
        """One episode, action [N,A] and state [N or N+1, S]. Returns its own lag in frames, if it is clear."""
        n = min(len(action), len(state))
        if n < LEAST_FRAMES:
            return None
        a = action[:n, self.columns].astype(np.float64)
        s = state[:n, self.columns].astype(np.float64)
        if not (np.isfinite(a).all() and np.isfinite(s).all()):
            return None
        moved = np.diff(s, axis=0)
        scores = []
        for kind, signal in enumerate((np.diff(a, axis=0), a[:-1] - a[:-1].mean(axis=0))):
            products = self._shifted(signal, moved)
            energy = (float((signal**2).sum()), float((moved**2).sum()))
            self._products[kind] += products
            self._energy[kind] += energy
            scores.append(products / (math.sqrt(energy[0] * energy[1]) or 1.0))
        best = max(scores, key=lambda score: float(score.max()))
        return self._peak(best)[0] if best.max() >= CLEAR else None

    def _shifted(self, signal: Array, moved: Array) -> Array:
        """Sum of products at every shift, [2 most + 1]."""
        n = len(signal)
        products = np.zeros(2 * self.most + 1)
        for place, shift in enumerate(range(-self.most, self.most + 1)):
            if abs(shift) < n:
                early, late = signal[max(0, -shift) : n - max(0, shift)], moved[max(0, shift) : n - max(0, -shift)]
                products[place] = float((early * late).sum())
        return products

    def _peak(self, scores: Array) -> tuple[float, float]:
        """(shift in frames, score) of the best, between frames where it has two neighbours."""
        best = int(scores.argmax())
        offset = 0.0
        if 0 < best < len(scores) - 1:
            before, here, after = scores[best - 1 : best + 2]
            bend = before - 2 * here + after
            offset = 0.5 * (before - after) / bend if bend < 0 else 0.0
        return best - self.most + offset, float(scores[best])

    def result(self) -> Lag | None:
        """Over all episodes; None if nothing moved or nothing follows clearly."""
        scale = np.sqrt(self._energy.prod(axis=1))
        if not scale.any():
            return None
        scores = self._products / np.where(scale > 0, scale, 1.0)[:, None]
        kind = int(scores.max(axis=1).argmax())
        frames, score = self._peak(scores[kind])
        if score < CLEAR:
            return None
        shifts = (np.arange(2 * self.most + 1) - self.most) / self.fps
        return Lag(
            group=self.group,
            kind=("absolute", "relative")[kind],
            frames=round(frames, 2) + 0.0,
            seconds=round(frames / self.fps, 3) + 0.0,
            correlation=round(score, 3),
            curve=tuple((round(float(x), 4), round(float(y), 4)) for x, y in zip(shifts, scores[kind], strict=True)),
        )
