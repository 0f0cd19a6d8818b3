"""Multimodal rotary positions of Qwen's models.

Text tokens advance time, height and width together; a picture's tokens share one time and carry their row and
column; those of a video advance in time too; what follows continues after the picture's longer side. Computed once a
conversation, when it is tokenised, not at every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The language tokens of one picture, or of one unbroken stretch of a video."""

    frames: int = 1
    """Sets of tokens one behind the other (pairs of frames)."""
    rows: int
    cols: int
    step: float = 1.0
    """Positions from one set to the next along time."""


def multimodal_positions(is_vision: np.ndarray, grids: Sequence[Grid]) -> np.ndarray:
    """int32 [3, L]: time, height and width positions of a conversation.

    is_vision: bool [L], True on tokens of pictures and videos. `grids`: theirs, in the order of the text.
    """
    length = len(is_vision)
    positions = np.empty((3, length), dtype=np.int32)
    places = np.flatnonzero(is_vision)
    cursor = start = taken = 0  # next token, next free position, vision tokens behind us
    for grid in grids:
        first, count = int(places[taken]), grid.frames * grid.rows * grid.cols
        positions[:, cursor:first] = start + np.arange(first - cursor)
        start += first - cursor
        time, row, col = np.indices((grid.frames, grid.rows, grid.cols)).reshape(3, -1)
        spaced = (time.astype(np.float32) * np.float32(grid.step)).astype(np.int32)
        positions[:, first : first + count] = start + np.stack([spaced, row, col])
        start += max(grid.rows, grid.cols)
        cursor, taken = first + count, taken + count
    positions[:, cursor:] = start + np.arange(length - cursor)
    return positions
