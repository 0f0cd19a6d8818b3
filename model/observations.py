"""Whether an observation is what a checkpoint was trained on: numbers of its robot, cameras, size of pictures."""

from collections.abc import Sequence

import numpy as np

from blm.model.errors import UserError
from blm.model.layout import Layout
from blm.model.types import Observation


def pictures_of(
    observation: Observation, layout: Layout, *, cameras: Sequence[str], image_px: int
) -> dict[str, np.ndarray]:
    """Camera -> uint8 [image_px, image_px, 3], in the order of `cameras`; other cameras are left out.

    UserError for a state of another length than the robot's, a camera that is missing, and pictures of another size.
    """
    if len(observation.state) != layout.state_dim:
        raise UserError(
            f"state has {len(observation.state)} values; {layout.name} needs {layout.state_dim}: "
            + ", ".join(layout.state_names)
        )
    missing = [camera for camera in cameras if camera not in observation.images]
    if missing:
        raise UserError(f"observation lacks camera {missing[0]!r}; send {', '.join(cameras)}")
    for camera in cameras:
        height, width = observation.images[camera].shape[:2]
        if (height, width) != (image_px, image_px):
            raise UserError(
                f"image {camera!r} is {width}x{height} px; resize it to {image_px}x{image_px} before sending"
            )
    return {camera: observation.images[camera] for camera in cameras}
