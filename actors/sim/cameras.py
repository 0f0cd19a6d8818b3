"""The cameras: where they stand, and the pinhole arithmetic that goes with them.

World frame: metres, z up, the table's top at z = 0, the robot's base at negative x looking along +x. Both
cameras were placed so that everything a task can show (targets on the table up to x = 0.4 and |y| = 0.2,
balls up to z = 0.35) lies inside the picture and fills it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraSpec:
    """A fixed pinhole camera with square pictures."""

    name: str
    """Key of `CAMERAS`; datasets call its pictures `observation.images.<name>`."""
    eye_m: tuple[float, float, float]
    """Position in world metres."""
    target_m: tuple[float, float, float]
    """Point at the centre of the picture, world metres."""
    fov_rad: float
    """Full angle of view, the same across and down."""


CAMERAS: dict[str, CameraSpec] = {
    "front": CameraSpec(name="front", eye_m=(0.8, 0.0, 0.7), target_m=(0.17, 0.0, 0.16), fov_rad=0.7),
    "side": CameraSpec(name="side", eye_m=(0.13, 0.9, 0.6), target_m=(0.11, 0.0, 0.15), fov_rad=0.6),
}
"""Every camera the project knows, by name."""


def camera_axes(camera: CameraSpec) -> FloatArray:
    """Rows: the camera's forward, left and up unit vectors in world coordinates, float64 [3,3]."""
    forward = np.subtract(camera.target_m, camera.eye_m)
    forward = forward / np.linalg.norm(forward)
    left = np.cross((0.0, 0.0, 1.0), forward)
    left = left / np.linalg.norm(left)
    return np.stack([forward, left, np.cross(forward, left)])


def project(points_m: npt.ArrayLike, camera: CameraSpec, image_px: int) -> tuple[FloatArray, FloatArray]:
    """World points [n,3] -> pixel positions [n,2] (column, row; 0, 0 is the top left corner) and depths [n] in m.

    A point behind the camera has a negative depth and a meaningless pixel position.
    """
    offset_m = np.asarray(points_m, dtype=np.float64).reshape(-1, 3) - np.asarray(camera.eye_m)
    forward, left, up = (offset_m @ axis for axis in camera_axes(camera))
    focal_px = 0.5 * image_px / np.tan(0.5 * camera.fov_rad)
    column = 0.5 * image_px - focal_px * left / forward
    row = 0.5 * image_px - focal_px * up / forward
    return np.stack([column, row], axis=1), forward
