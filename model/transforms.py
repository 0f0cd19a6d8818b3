"""Action representation: absolute in datasets and on robots, relative to the present posture inside the model.

A joint target minus the present joint position shares its scale over postures and robots, which absolute targets do
not. What a layout does not call relative, as a gripper's command, stays as it is; normalisation scales it.
"""

import numpy as np

from blm.model.layout import ABSOLUTE, Layout


def relative_chunk(chunk: np.ndarray, state: np.ndarray, layout: Layout) -> np.ndarray:
    """Absolute actions [..., H, A] and the state [..., S] at the chunk's start -> what the model learns, float32
    [..., H, A]."""
    return (chunk - _origin(state, layout)).astype(np.float32)


def absolute_chunk(relative: np.ndarray, state: np.ndarray, layout: Layout) -> np.ndarray:
    """The inverse of `relative_chunk`, clamped to the layout's bounds."""
    absolute = (relative + _origin(state, layout)).astype(np.float32)
    return np.clip(absolute, np.asarray(layout.lower, np.float32), np.asarray(layout.upper, np.float32))


def _origin(state: np.ndarray, layout: Layout) -> np.ndarray:
    """What each action dimension is measured from, [..., 1, A]; 0 for the absolute ones."""
    source = np.asarray(layout.relative_to)
    return np.where(source == ABSOLUTE, 0.0, state[..., np.maximum(source, 0)])[..., None, :]
