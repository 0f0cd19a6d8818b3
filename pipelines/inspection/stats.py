"""stats.json against the data: exact sums over all frames, added up as episodes pass."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from blm.pipelines.datasets import lerobot_schema as schema
from blm.pipelines.inspection.findings import Findings
from blm.pipelines.inspection.track import Track

CLOSE = 1e-3
"""Share of a value's range by which a statistic may differ: others compute in float32 or leave frames out."""


class Moments:
    """Least, greatest, mean and spread of one feature, a value of the last axis each."""

    def __init__(self) -> None:
        self.count = 0
        self.frames = 0
        self.low = self.high = self.total = self.squares = np.zeros(0)
        self.centre = np.zeros(0)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Frames [N,...]; other axes than the last are further samples. Not finite ones make the result NaN."""
        flat = (
            values.reshape(-1, values.shape[-1]).astype(np.float64)
            if values.ndim > 1
            else values.astype(np.float64)[:, None]
        )
        if not len(flat):
            return
        if not self.count:
            self.centre = np.nan_to_num(flat[0])  # keeps sums of squares small where values are far from zero
            self.low, self.high = flat.min(axis=0), flat.max(axis=0)
            self.total = self.squares = np.zeros(flat.shape[1])
        if flat.shape[1] != len(self.low):
            return
        self.low, self.high = np.minimum(self.low, flat.min(axis=0)), np.maximum(self.high, flat.max(axis=0))
        self.total = self.total + (flat - self.centre).sum(axis=0)
        self.squares = self.squares + ((flat - self.centre) ** 2).sum(axis=0)
        self.count += len(flat)
        self.frames += len(values)

    def result(self) -> dict[str, npt.NDArray[np.float64]]:
        """min, max, mean, std [D]."""
        mean = self.total / self.count
        with np.errstate(invalid="ignore"):  # infinities, which the check of finite values names
            variance = np.maximum(self.squares / self.count - mean**2, 0.0)
        return {
            "min": self.low,
            "max": self.high,
            "mean": mean + self.centre,
            "std": np.sqrt(variance),
        }


class StatsCheck:
    """Takes episodes, then compares."""

    def __init__(self, root: Path, findings: Findings) -> None:
        self.root = root
        self.findings = findings
        self.moments: dict[str, Moments] = {}

    def add(self, track: Track) -> None:
        """One episode."""
        for name, values in track.values.items():
            self.moments.setdefault(name, Moments()).add(values)

    def finish(self, pictures: Iterable[str], *, complete: bool) -> None:
        """Compare; not if files could not be read, for then the statistics must differ. Of pictures, only presence."""
        path = self.root / schema.STATS_PATH
        if not path.exists():
            self.findings.warn("statistics", f"{schema.STATS_PATH} is missing; trainers normalise by it")
            return
        try:
            stats = json.loads(path.read_text())
        except ValueError as error:
            self.findings.error("files", f"{schema.STATS_PATH} is not readable JSON ({error})")
            return
        if not complete:
            return
        if not isinstance(stats, dict):
            stats = {}
        known = [name for name, moments in self.moments.items() if moments.count]
        for name in [*pictures, *known]:
            if name not in stats:
                self.findings.warn("statistics", "nothing about a feature", name)
        for name in known:
            if name in stats:
                try:
                    self._compare(name, self.moments[name], stats[name])
                except (TypeError, ValueError, AttributeError):
                    self.findings.error("statistics", "not numbers", name)
        self.findings.looked_at("statistics", f"min, max, mean and spread of {len(self.moments)} features recomputed")

    def _compare(self, name: str, moments: Moments, given: dict[str, Any]) -> None:
        count = np.asarray(given.get("count", moments.frames)).reshape(-1)
        if len(count) and int(count[0]) != moments.frames:
            self.findings.error(
                "statistics", f"count is not the number of frames, {moments.frames}", f"{name} ({int(count[0])})"
            )
        found = moments.result()
        with np.errstate(invalid="ignore"):
            scale = np.maximum(found["max"] - found["min"], 1e-6)
        for stat, expected in found.items():
            told = np.asarray(given.get(stat, expected), dtype=np.float64).reshape(-1)
            if told.shape != expected.shape:
                continue  # another convention, over the frames alone
            with np.errstate(invalid="ignore"):
                off = np.where(np.isfinite(expected), np.abs(told - expected) / scale, 0.0)  # else named elsewhere
            if not (off <= CLOSE).all():
                worst = int(np.nan_to_num(off, nan=np.inf).argmax())
                self.findings.error(
                    "statistics",
                    "not what the data give",
                    f"{name} {stat}[{worst}] {told[worst]:.4g} instead of {expected[worst]:.4g}",
                )
