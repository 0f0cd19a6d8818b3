"""Normalisation by quantiles: the 1 % and 99 % quantiles of each dimension go to -1 and 1.

Values beyond are kept up to CLIP, so that a rare large target is still learnable. Where the quantiles coincide, as for
a joint that moves in less than 1 % of the data, the extremes take their place. A dimension that never changes is mapped
to 0, and back to its constant.

Actions have quantiles of their own at every step of the chunk: relative to the present posture, a target one step ahead
is ten times smaller than one sixteen steps ahead, and with one scale for all it would drown in the noise.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CLIP = 1.5
MIN_SPREAD = 1e-3
"""rad, or share of the gripper's opening. What moves less only trembles, and counts as constant."""
MIN_HALF_SPREAD = 0.02
"""rad, or share of the gripper's opening. Actions of one step that spread less are divided by this instead, so that
trembling at the chunk's start is not blown up."""

Levels = tuple[float, ...] | tuple[tuple[float, ...], ...]
"""Numbers of each dimension [D], or of each step and dimension [H][D]."""
Threshold = float | npt.NDArray[np.float64]
"""In the quantity's units: one for all dimensions, or [D]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantiles:
    """Quantiles of one quantity: of each dimension, or of each step of a chunk and each dimension."""

    low: Levels
    """What goes to -1: the 1 % quantile, unless the spread was too small."""
    high: Levels
    """What goes to 1; equal to `low` where the quantity never changes."""

    @classmethod
    def of(
        cls,
        values: npt.NDArray[Any],
        *,
        real: npt.NDArray[np.bool_] | None = None,
        min_spread: Threshold = MIN_SPREAD,
        min_half_spread: Threshold = 0.0,
    ) -> "Quantiles":
        """Of values [N, D] or chunks [N, H, D], N at least 1. real: bool [N, H], False where a chunk is padding; a step
        that is padding everywhere takes the quantiles of the step before it. The rest as for `between`."""
        values = values.astype(np.float64)
        if values.ndim == 2:
            parts = [values]
        else:
            kept = np.ones(values.shape[:2], dtype=bool) if real is None else real
            parts = [values[kept[:, step], step] for step in range(values.shape[1])]
            parts = [part if len(part) else parts[step - 1] for step, part in enumerate(parts)]
        shape = values.shape[1:]
        low, high = (np.stack([np.quantile(part, share, axis=0) for part in parts]) for share in (0.01, 0.99))
        least, greatest = (np.stack([getattr(part, side)(axis=0) for part in parts]) for side in ("min", "max"))
        low, high, least, greatest = (level.reshape(shape) for level in (low, high, least, greatest))
        return cls.between(low, high, least, greatest, min_spread=min_spread, min_half_spread=min_half_spread)

    @classmethod
    def between(
        cls,
        low: npt.NDArray[np.float64],
        high: npt.NDArray[np.float64],
        least: npt.NDArray[np.float64],
        greatest: npt.NDArray[np.float64],
        *,
        min_spread: Threshold = MIN_SPREAD,
        min_half_spread: Threshold = 0.0,
    ) -> "Quantiles":
        """From the quantiles, the least and the greatest value, each [D] or [H, D].

        min_spread: between quantiles closer than this the extremes take their place; a dimension whose extremes, over
        all steps, are closer counts as constant. min_half_spread: a smaller half of the spread is widened to this.
        The defaults suit joints in rad.
        """
        still = high - low < min_spread
        low, high = np.where(still, least, low), np.where(still, greatest, high)
        steps = tuple(range(low.ndim - 1))
        constant = greatest.max(axis=steps) - least.min(axis=steps) < min_spread
        centre, half = (low + high) / 2, np.maximum((high - low) / 2, min_half_spread)
        half = np.where(constant, 0.0, half)
        return cls(low=_levels(centre - half), high=_levels(centre + half))

    def normalize(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """float32 [..., D] or [..., H, D] in units of the data -> [-CLIP, CLIP]."""
        centre, half, constant = self._scale()
        return np.where(constant, 0.0, np.clip((values - centre) / half, -CLIP, CLIP)).astype(np.float32)

    def unnormalize(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The inverse of `normalize`, float32 [..., D] or [..., H, D]."""
        centre, half, constant = self._scale()
        return np.where(constant, centre, values * half + centre).astype(np.float32)

    @property
    def dims(self) -> int:
        """D."""
        return int(np.shape(self.low)[-1])

    @property
    def steps(self) -> int | None:
        """H, or None if all steps share their quantiles."""
        shape = np.shape(self.low)
        return int(shape[0]) if len(shape) == 2 else None

    def _scale(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Middle, half spread and whether it is constant, [D] or [H, D]."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        constant = high <= low
        return (low + high) / 2, np.where(constant, 1.0, (high - low) / 2), constant


def _levels(values: npt.NDArray[np.float64]) -> Levels:
    """Nested tuples of an array [D] or [H, D]."""
    if values.ndim == 1:
        return tuple(values.tolist())
    return tuple(tuple(step) for step in values.tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbodimentStatistics:
    """Statistics of one robot's training data."""

    state: Quantiles
    """Of proprioception [S]."""
    action: Quantiles
    """Of relative action chunks, per step of the chunk and action dimension [H][A]."""


Statistics = Mapping[str, EmbodimentStatistics]
"""By embodiment name."""


def statistics_to_json(statistics: Statistics) -> dict:
    """Plain data for `blm.json`."""
    return {
        name: {
            kind: {side: np.asarray(getattr(quantiles, side)).tolist() for side in ("low", "high")}
            for kind, quantiles in (("state", one.state), ("action", one.action))
        }
        for name, one in statistics.items()
    }


def statistics_from_json(data: dict) -> dict[str, EmbodimentStatistics]:
    """The inverse of `statistics_to_json`."""

    def quantiles(entry: dict) -> Quantiles:
        low, high = (np.asarray(entry[side], dtype=np.float64) for side in ("low", "high"))
        if low.shape != high.shape or low.ndim not in (1, 2):
            raise ValueError(f"quantiles of shapes {low.shape} and {high.shape}")
        return Quantiles(low=_levels(low), high=_levels(high))

    return {
        name: EmbodimentStatistics(state=quantiles(entry["state"]), action=quantiles(entry["action"]))
        for name, entry in data.items()
    }


def statistics_hash(statistics: Statistics) -> str:
    """Short hash that clients and checkpoints compare."""
    return hashlib.sha256(json.dumps(statistics_to_json(statistics), sort_keys=True).encode()).hexdigest()[:12]
