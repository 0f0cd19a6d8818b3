"""Checks of one episode's arrays: pure functions, in NumPy, that say where something is wrong.

Shapes: N frames, D values a frame, E episodes.
"""

import hashlib

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Rows = npt.NDArray[np.intp]

TIMESTAMP_TOLERANCE_S = 1e-4
"""The `lerobot` package's own tolerance: a frame further off cannot be found by its time."""
STILL = 1e-6
"""A joint whose values span less, in rad, has not moved: measured and simulated ones tremble by more."""
MOVES = 0.02
"""A joint whose values span more, in rad, has certainly moved."""


def not_finite(values: npt.NDArray[np.generic]) -> Rows:
    """Frames [N, ...] with a NaN or an infinity."""
    if values.dtype.kind != "f":
        return np.empty(0, np.intp)
    return np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))


def outside(values: Array, lower: Array, upper: Array, tolerance: Array) -> tuple[Rows, Rows]:
    """(frames, dimensions) of [N,D] beyond the limits [D] by more than the tolerances [D]. NaN is not outside."""
    rows, dimensions = np.nonzero((values < lower - tolerance) | (values > upper + tolerance))
    return rows, dimensions


def time_gaps(timestamp: Array, fps: float) -> tuple[Rows, Rows]:
    """(gaps, jitter): frames that come half a frame or more too early or too late after the one before, and those
    that are merely not where `fps` puts them.
    """
    times = timestamp.astype(np.float64)
    tolerance = TIMESTAMP_TOLERANCE_S + 2e-7 * np.abs(times)  # what float32 can hold
    off = np.abs(np.diff(times) - 1 / fps)
    gaps = np.flatnonzero(off > 0.5 / fps) + 1
    jitter = np.flatnonzero(off > tolerance[1:]) + 1
    if len(times) and abs(times[0]) > tolerance[0]:
        jitter = np.concatenate([[0], jitter])
    return gaps, np.setdiff1d(jitter, gaps)


def breaks(numbers: npt.NDArray[np.integer], first: int) -> Rows:
    """Places where numbers do not go on by one from `first`."""
    return np.flatnonzero(np.diff(numbers, prepend=first - 1) != 1)


def span(values: Array) -> Array:
    """How far each of D values moves in an episode [N,D]; not finite ones are left out."""
    clean = np.where(np.isfinite(values), values, np.nan)
    if not len(values) or np.isnan(clean).all():
        return np.zeros(values.shape[1])
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.nanmax(clean, axis=0) - np.nanmin(clean, axis=0)).astype(np.float64)


def stuck(spans: Array) -> npt.NDArray[np.bool_]:
    """Which joints [E,D] stand still in an episode in which others move, though they move in most others.

    spans: of the episodes of one cell, [E,D]. Two episodes and fewer say nothing.
    """
    if len(spans) < 3:
        return np.zeros(spans.shape, bool)
    usually_moves = (spans > MOVES).mean(axis=0) > 0.5
    others_move = (spans > MOVES).any(axis=1, keepdims=True)
    return (spans < STILL) & usually_moves & others_move


def held(values: Array) -> npt.NDArray[np.int64]:
    """Longest stretch, in frames, over which each of D values [N,D] stays exactly the same while any other moves on.

    Values at their own smallest or largest are left out: there a gripper may rest, or a value be clipped.
    """
    if len(values) < 3:
        return np.zeros(values.shape[1], np.int64)
    same = np.diff(values, axis=0) == 0
    at_end = (values[1:] == values.min(axis=0)) | (values[1:] == values.max(axis=0))
    counting = same & ~at_end & ~same.all(axis=1, keepdims=True)
    longest = np.zeros(values.shape[1], np.int64)
    running = np.zeros(values.shape[1], np.int64)
    for row in counting:
        running = np.where(row, running + 1, 0)
        longest = np.maximum(longest, running)
    return longest


def fastest(values: Array, fps: float) -> Array:
    """Greatest speed of each of D values [N,D], per second."""
    if len(values) < 2:
        return np.zeros(values.shape[1])
    return np.nan_to_num(np.abs(np.diff(values.astype(np.float64), axis=0))).max(axis=0) * fps


def far_above(values: Array, factor: float) -> Rows:
    """Which of E values exceed the median by the factor. Fewer than five say nothing."""
    if len(values) < 5:
        return np.empty(0, np.intp)
    return np.flatnonzero(values > factor * np.median(values) + 1e-12)


def digest(*arrays: npt.NDArray[np.generic]) -> str:
    """The same for the same values, whatever the number format they are kept in."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.shape}".encode())
        sha.update(np.ascontiguousarray(array, dtype=np.float32).tobytes())
    return sha.hexdigest()


def longest_run(same: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """(first, length) of the longest stretch of True in [N]; length 0 if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    if not len(edges):
        return 0, 0
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    best = int(lengths.argmax())
    return int(starts[best]), int(lengths[best])
