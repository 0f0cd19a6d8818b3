"""Normalisation by quantiles: the 1 % and 99 % quantiles of each dimension go to -1 and 1.

Values beyond are kept up to CLIP, so that a rare large target is still learnable. Where the quantiles coincide, as for
a joint that moves in less than 1 % of the data, the extremes take their place. A dimension that never changes is mapped
to 0, and back to its constant.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

CLIP = 1.5
MIN_SPREAD = 1e-3
"""rad, or share of the gripper's opening. What moves less only trembles, and counts as constant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantiles:
    """Per-dimension quantiles of one quantity."""

    low: tuple[float, ...]
    """1 % quantile of each dimension."""
    high: tuple[float, ...]
    """99 % quantile of each dimension."""

    @classmethod
    def of(cls, values: np.ndarray) -> "Quantiles":
        """Of values [N, D], N at least 1."""
        values = values.astype(np.float64)
        low, high = np.quantile(values, (0.01, 0.99), axis=0)
        still = high - low < MIN_SPREAD
        low, high = np.where(still, values.min(axis=0), low), np.where(still, values.max(axis=0), high)
        return cls(low=tuple(low.tolist()), high=tuple(high.tolist()))

    def normalize(self, values: np.ndarray) -> np.ndarray:
        """float32 [..., D] in units of the data -> [-CLIP, CLIP]."""
        centre, half, constant = self._scale()
        return np.where(constant, 0.0, np.clip((values - centre) / half, -CLIP, CLIP)).astype(np.float32)

    def unnormalize(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `normalize`, float32 [..., D]."""
        centre, half, constant = self._scale()
        return np.where(constant, centre, values * half + centre).astype(np.float32)

    def _scale(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Middle, half spread and whether it is constant, of each dimension."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        constant = high - low < MIN_SPREAD
        return (low + high) / 2, np.where(constant, 1.0, (high - low) / 2), constant


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbodimentStatistics:
    """Statistics of one robot's training data."""

    state: Quantiles
    """Of proprioception [S]."""
    action: Quantiles
    """Of relative action chunks, per action dimension [A]."""


Statistics = Mapping[str, EmbodimentStatistics]
"""By embodiment name."""


def statistics_to_json(statistics: Statistics) -> dict:
    """Plain data for `blm.json`."""
    return {
        name: {
            kind: {"low": list(q.low), "high": list(q.high)} for kind, q in (("state", s.state), ("action", s.action))
        }
        for name, s in statistics.items()
    }


def statistics_from_json(data: dict) -> dict[str, EmbodimentStatistics]:
    """The inverse of `statistics_to_json`."""

    def quantiles(entry: dict) -> Quantiles:
        return Quantiles(low=tuple(entry["low"]), high=tuple(entry["high"]))

    return {
        name: EmbodimentStatistics(state=quantiles(entry["state"]), action=quantiles(entry["action"]))
        for name, entry in data.items()
    }


def statistics_hash(statistics: Statistics) -> str:
    """Short hash that clients and checkpoints compare."""
    return hashlib.sha256(json.dumps(statistics_to_json(statistics), sort_keys=True).encode()).hexdigest()[:12]
