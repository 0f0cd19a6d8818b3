"""Our observations in a foreign server's terms, and its actions in ours, by a mapping."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from blm.actors.remote.mapping import ActionMapping, RemoteMapping
from blm.actors.sim.policies import PolicyError
from blm.model.embodiments import Embodiment, get_embodiment
from blm.model.types import ActionChunk, Observation

Float32 = npt.NDArray[np.float32]


def their_pictures(mapping: RemoteMapping, observation: Observation) -> dict[str, npt.NDArray[np.uint8]]:
    """The server's name -> uint8 [H, W, 3], resized where it wants another size. PolicyError for a missing camera."""
    found = {}
    for theirs, ours in mapping.pictures.items():
        if ours not in observation.images:
            raise PolicyError(f"there is no camera {ours!r} for {theirs!r}; there is {list(observation.images)}")
        found[theirs] = _sized(observation.images[ours], mapping.picture_px)
    return found


def their_numbers(mapping: RemoteMapping, observation: Observation) -> dict[str, Float32]:
    """The server's name -> float32 [n] of the state, in its units."""
    state = np.asarray(observation.state, dtype=np.float64) / mapping.state_rad
    closed, opened = mapping.gripper_closed, mapping.gripper_open
    state[-1] = closed + float(observation.state[-1]) * (opened - closed)
    return {theirs: state[list(columns)].astype(np.float32) for theirs, columns in mapping.state.items()}


def our_chunk(mapping: ActionMapping, actions: Any, observation: Observation) -> ActionChunk:
    """The server's actions [rows, columns] or [columns] as absolute targets at the robot's own rate.

    Values that are not finite stay so, for whoever executes them to refuse. PolicyError for anything but numbers of
    enough columns.
    """
    body = get_embodiment(observation.embodiment)
    rows = np.asarray(actions)
    if rows.dtype.kind not in "iuf" or rows.ndim not in (1, 2) or not rows.size:
        raise PolicyError(f"actions of {rows.dtype} {list(rows.shape)}; expected numbers, a row an action")
    rows = np.atleast_2d(rows).astype(np.float64)
    columns = list(mapping.joints or range(body.arm_dof))
    gripper = mapping.gripper if mapping.gripper >= 0 else rows.shape[1] - 1
    if max(*columns, gripper) >= rows.shape[1]:
        raise PolicyError(f"actions of {rows.shape[1]} columns; the mapping names column {max(*columns, gripper)}")
    present = np.asarray(observation.state[:-1], dtype=np.float64)
    joints = _absolute(mapping, rows[:, columns] * mapping.rad, present)
    opening = (rows[:, gripper] - mapping.gripper_closed) / (mapping.gripper_open - mapping.gripper_closed)
    targets = np.column_stack([joints, np.clip(opening, 0.0, 1.0)])
    if mapping.hz != body.control_hz:
        targets = _resampled(targets, present, mapping.hz, body)
    return ActionChunk(actions=targets.astype(np.float32), control_hz=body.control_hz)


def _absolute(
    mapping: ActionMapping, joints: npt.NDArray[np.float64], present: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    if mapping.joints_are == "from_state":
        return present + joints
    if mapping.joints_are == "from_previous":
        return present + np.cumsum(joints, axis=0)
    return joints


def _resampled(
    targets: npt.NDArray[np.float64], present: npt.NDArray[np.float64], hz: float, body: Embodiment
) -> npt.NDArray[np.float64]:
    """Rows at the robot's rate that reach no further than the given ones: joints on straight lines from where they are,
    the gripper as it was commanded last."""
    count = max(math.floor(len(targets) / hz * body.control_hz + 1e-9), 1)
    times_s = np.minimum((np.arange(count) + 1) / body.control_hz, len(targets) / hz)
    known_s = np.arange(len(targets) + 1) / hz
    joints = np.vstack([present, targets[:, :-1]])
    lines = [np.interp(times_s, known_s, joints[:, joint]) for joint in range(joints.shape[1])]
    commanded = np.clip(np.ceil(times_s * hz - 1e-9).astype(int) - 1, 0, len(targets) - 1)
    return np.column_stack([*lines, targets[commanded, -1]])


def _sized(picture: npt.NDArray[np.uint8], px: int) -> npt.NDArray[np.uint8]:
    if px in (0, picture.shape[0]):
        return picture
    return np.asarray(Image.fromarray(picture).resize((px, px), Image.Resampling.BILINEAR))
