"""What a picture shows of an object: drawn twice, the second time in a colour of its own, it differs where that is."""

import numpy as np
import numpy.typing as npt

MARKER_RGB = (0.9, 0.0, 0.9)
"""The colour to draw it in."""
MARKED_STEPS = 40
"""Change of a pixel, summed over colours, from which it belongs to the object."""
VISIBLE_SHARE = 0.001
"""Share of a picture that must show the object for it to be visible: 12 pixels of 112 x 112."""


def box_px(picture: npt.NDArray[np.uint8], painted: npt.NDArray[np.uint8]) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of where two pictures [H,W,3] differ, the last two exclusive; None if that is too
    little.
    """
    changed = np.abs(picture.astype(np.int32) - painted.astype(np.int32)).sum(axis=-1) > MARKED_STEPS
    if changed.sum() < max(VISIBLE_SHARE * changed.size, 1):
        return None
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
