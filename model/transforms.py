"""Action representation: absolute in datasets and on robots, relative to the present posture inside the model.

A joint target minus the present joint position shares its scale over postures and robots, which absolute targets do
not. The gripper command stays absolute, in [-1 closed, 1 open].
"""

import numpy as np


def relative_chunk(chunk: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Absolute targets [..., H, A] and proprioception [..., S] at the chunk's start -> relative targets [..., H,
    A]."""
    arm = chunk[..., :-1] - state[..., None, :-1]
    gripper = 2.0 * chunk[..., -1:] - 1.0
    return np.concatenate([arm, gripper], axis=-1).astype(np.float32)


def absolute_chunk(relative: np.ndarray, state: np.ndarray) -> np.ndarray:
    """The inverse of `relative_chunk`; gripper commands are clamped to [0, 1]."""
    arm = relative[..., :-1] + state[..., None, :-1]
    gripper = np.clip((relative[..., -1:] + 1.0) / 2.0, 0.0, 1.0)
    return np.concatenate([arm, gripper], axis=-1).astype(np.float32)
