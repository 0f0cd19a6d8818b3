"""Statistics of dataset columns, exact and in float64: min, max, mean, std, count and five quantiles.

Pictures are counted in 256-bin histograms per channel, from which every statistic follows exactly and which
add up over episodes; nothing is subsampled. Values of pictures are in [0, 1], nested (3, 1, 1) as readers
expect.
"""

from collections.abc import Iterable
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
STAT_NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)

Histogram = npt.NDArray[np.int64]
Stats = dict[str, Any]
"""Statistic name -> nested lists of float; `count` -> [int]."""


def vector_stats(values: npt.NDArray[Any]) -> Stats:
    """Statistics of [n, d] over n, and of [n, h, d] over n and h. Quantiles interpolate linearly between samples."""
    n_frames = len(values)
    values = values.reshape(-1, values.shape[-1]).astype(np.float64)
    stats: Stats = {
        "min": values.min(axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
        "mean": values.mean(axis=0).tolist(),
        "std": values.std(axis=0).tolist(),
        "count": [n_frames],
    }
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return stats | dict(zip(QUANTILES, quantiles.tolist(), strict=True))


def picture_histogram(pictures: Iterable[bytes]) -> Histogram:
    """How often each 8-bit value occurs in each channel of encoded pictures: int64 [3, 256]."""
    return histogram_of(np.asarray(Image.open(BytesIO(encoded)).convert("RGB")) for encoded in pictures)


def histogram_of(pictures: Iterable[npt.NDArray[np.uint8]]) -> Histogram:
    """The same of decoded pictures [H,W,3]."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for picture in pictures:
        pixels = picture.reshape(-1, 3)
        for channel in range(3):
            counts[channel] += np.bincount(pixels[:, channel], minlength=256)
    return counts


def picture_stats(histogram: Histogram, n_frames: int) -> Stats:
    """Statistics of the pictures counted in a histogram; `count` is the number of frames."""
    levels = np.arange(256) / 255.0
    total = histogram.sum(axis=1)
    mean = histogram @ levels / total
    variance = histogram @ levels**2 / total - mean**2
    present = histogram > 0
    stats = {
        "min": levels[present.argmax(axis=1)],
        "max": levels[255 - present[:, ::-1].argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(variance, 0.0)),
    }
    cumulative = histogram.cumsum(axis=1)
    for name, quantile in QUANTILES.items():
        rank = quantile * (total - 1)
        stats[name] = np.array([levels[np.searchsorted(cumulative[c], rank[c], side="right")] for c in range(3)])
    nested: Stats = {name: value.reshape(3, 1, 1).tolist() for name, value in stats.items()}
    return nested | {"count": [n_frames]}
