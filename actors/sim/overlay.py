"""Rings drawn over a picture round a place that things may hide: what an augmented-reality display would show.

PickCube's goal is a ball in the air that nobody can touch. The hand that carries the cube there hides it from most
cameras for most of the way, and the better the policy, the longer. A ring of the ball's outline, drawn last, stays
visible and leaves free what is inside it.
"""

import numpy as np
import numpy.typing as npt

RGB = (0, 255, 0)
LINE_PX = 1.5
"""Width of the line, in pixels of the finished picture."""


def draw_ring(
    picture: npt.NDArray[np.uint8],
    extrinsic: npt.NDArray[np.floating],
    intrinsic: npt.NDArray[np.floating],
    centre_m: npt.ArrayLike,
    radius_m: float,
    line_px: float,
) -> None:
    """Draw the outline of a ball of that centre and radius (world metres) into `picture` uint8 [H,W,3 or 4], in place.

    extrinsic [3,4] takes world points to the camera's frame, intrinsic [3,3] that to pixels, both as OpenCV has them.
    Nothing is drawn of what is behind the camera or outside the picture.
    """
    in_camera = extrinsic[:, :3] @ np.asarray(centre_m, np.float64) + extrinsic[:, 3]
    depth_m = float(in_camera[2])
    if depth_m <= radius_m:
        return
    column, row = (intrinsic @ in_camera)[:2] / depth_m
    inner = float(intrinsic[0, 0]) * radius_m / depth_m
    outer = inner + line_px
    height, width = picture.shape[:2]
    top, bottom = max(int(row - outer), 0), min(int(row + outer) + 2, height)
    left, right = max(int(column - outer), 0), min(int(column + outer) + 2, width)
    if top >= bottom or left >= right:
        return
    rows, columns = np.ogrid[top:bottom, left:right]
    squared = (rows + 0.5 - row) ** 2 + (columns + 0.5 - column) ** 2
    ring = (squared >= inner**2) & (squared <= outer**2)
    picture[top:bottom, left:right, :3][ring] = RGB
    picture[top:bottom, left:right, 3:][ring] = 255
