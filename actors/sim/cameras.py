"""The cameras: where they stand, and the pinhole arithmetic that goes with them.

World frame: metres, z up, the table's top at z = 0, the robot's base at negative x looking along +x. The fixed
cameras were placed so that everything a task can show (targets on the table up to x = 0.4 and |y| = 0.2, balls up to
z = 0.35) lies inside the picture and fills it. The wrist camera moves with the hand: it is described in the frame of
the tool centre, which is the same for every robot (z out of the hand, y along the closing direction), and shows the
fingertips and what is below them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blm.model.errors import UserError

FloatArray = npt.NDArray[np.floating]
Vector = tuple[float, float, float]

TABLE_REACH_M = ((-0.74, 0.47), (-1.22, 1.21))
"""How far ManiSkill's table goes in x and in y; nothing is seen from inside or below it."""
NEAR_M, FAR_M = 0.05, 5.0
"""Depths between which a fixed camera sees."""
MOUNTED_NEAR_M = 0.01
"""The same for a camera on the hand, whose fingers are near."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraSpec:
    """A pinhole camera with square pictures."""

    name: str
    """Key of `CAMERAS`; datasets call its pictures `observation.images.<name>`."""
    eye_m: Vector
    """Position in metres, in the world or, if mounted, in the frame of the tool centre."""
    target_m: Vector
    """Point at the centre of the picture, in the same frame."""
    fov_rad: float
    """Full angle of view, the same across and down."""
    up: Vector = (0.0, 0.0, 1.0)
    """Direction that points up in the picture, in the same frame."""
    mounted: bool = False
    """Whether it is mounted on the robot's hand."""


CAMERAS: dict[str, CameraSpec] = {
    "front": CameraSpec(name="front", eye_m=(0.8, 0.0, 0.7), target_m=(0.17, 0.0, 0.16), fov_rad=0.7),
    "side": CameraSpec(name="side", eye_m=(0.13, 0.9, 0.6), target_m=(0.11, 0.0, 0.15), fov_rad=0.6),
    "wrist": CameraSpec(
        name="wrist", eye_m=(0.1, 0.0, -0.07), target_m=(0.0, 0.0, 0.03), fov_rad=1.2, up=(1.0, 0.0, 0.0), mounted=True
    ),
}
"""Every camera the project knows, by name."""

FIXED_CAMERAS = tuple(name for name, spec in CAMERAS.items() if not spec.mounted)
"""Names of those that stand still in the world, for which `project` works."""


def check_camera(camera: CameraSpec, jitter_m: float = 0.0) -> None:
    """UserError if the camera would see nothing: it stands in or under the table, or looks nowhere.

    jitter_m: how far along each axis its position may be moved. Mounted cameras move with the arm, which the planner
    keeps off the table.
    """
    eye, target = np.asarray(camera.eye_m), np.asarray(camera.target_m)
    if not (np.isfinite(eye).all() and np.isfinite(target).all()):
        raise UserError(
            f"camera {camera.name}: its position {camera.eye_m} and target {camera.target_m} must be finite"
        )
    if not 0.0 < camera.fov_rad < np.pi:
        raise UserError(
            f"camera {camera.name}: its angle of view is {camera.fov_rad} rad; give more than 0, less than pi"
        )
    forward = target - eye
    if np.linalg.norm(np.cross(camera.up, forward)) < 1e-6:
        raise UserError(
            f"camera {camera.name} at {camera.eye_m} looks nowhere or straight along its own `up`, at"
            f" {camera.target_m}; move its target"
        )
    if camera.mounted:
        return
    lowest_m = eye[2] - jitter_m
    (x0, x1), (y0, y1) = TABLE_REACH_M
    over_table = x0 - jitter_m <= eye[0] <= x1 + jitter_m and y0 - jitter_m <= eye[1] <= y1 + jitter_m
    moved = f" moved by up to {jitter_m} m" if jitter_m else ""
    less = ", or move it less (look.eye_jitter_m)" if jitter_m else ""
    if over_table and lowest_m <= NEAR_M:
        raise UserError(
            f"camera {camera.name} at {camera.eye_m} m{moved} stands inside the table or under it, where it sees"
            f" nothing; the table's top is at z = 0, so give it a z above {NEAR_M + jitter_m:.2f}{less}"
        )
    if lowest_m <= 0.0:
        raise UserError(
            f"camera {camera.name} at {camera.eye_m} m{moved} stands below the table's top (z = 0), which hides the"
            f" scene from it; raise it{less}"
        )


def camera_axes(camera: CameraSpec) -> FloatArray:
    """Rows: the camera's forward, left and up unit vectors in the frame it is described in, float64 [3,3]."""
    forward = np.subtract(camera.target_m, camera.eye_m)
    forward = forward / np.linalg.norm(forward)
    left = np.cross(camera.up, forward)
    left = left / np.linalg.norm(left)
    return np.stack([forward, left, np.cross(forward, left)])


def project(points_m: npt.ArrayLike, camera: CameraSpec, image_px: int) -> tuple[FloatArray, FloatArray]:
    """World points [n,3] -> pixel positions [n,2] (column, row; 0, 0 is the top left corner) and depths [n] in m.

    A point behind the camera has a negative depth and a meaningless pixel position. ValueError for a mounted camera:
    where that is depends on the robot's joints.
    """
    if camera.mounted:
        raise ValueError(
            f"camera {camera.name} moves with the hand; only {', '.join(FIXED_CAMERAS)} can be projected to"
        )
    offset_m = np.asarray(points_m, dtype=np.float64).reshape(-1, 3) - np.asarray(camera.eye_m)
    forward, left, up = (offset_m @ axis for axis in camera_axes(camera))
    focal_px = 0.5 * image_px / np.tan(0.5 * camera.fov_rad)
    column = 0.5 * image_px - focal_px * left / forward
    row = 0.5 * image_px - focal_px * up / forward
    return np.stack([column, row], axis=1), forward
