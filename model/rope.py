"""Multimodal rotary positions of Qwen2.5-VL for conversations with still pictures.

Text tokens advance time, height and width together; a picture's tokens share one time and carry their row and
column; what follows continues after the largest position used. Computed once a conversation, when it is tokenised,
not at every step.
"""

from collections.abc import Sequence

import numpy as np


def mrope_positions(input_ids: Sequence[int], *, image_token_id: int, grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """int32 [3, L]: time, height and width positions. `grids`: (rows, cols) of each picture in language tokens."""
    ids = np.asarray(input_ids)
    positions = np.empty((3, len(ids)), dtype=np.int32)
    cursor = 0  # index into the sequence
    start = 0  # next free position
    for rows, cols in grids:
        first = cursor + int(np.argmax(ids[cursor:] == image_token_id))
        positions[:, cursor:first] = start + np.arange(first - cursor)
        start += first - cursor
        row, col = np.divmod(np.arange(rows * cols), cols)
        positions[:, first : first + rows * cols] = start + np.stack([np.zeros_like(row), row, col])
        start += max(rows, cols)
        cursor = first + rows * cols
    positions[:, cursor:] = start + np.arange(len(ids) - cursor)
    return positions
