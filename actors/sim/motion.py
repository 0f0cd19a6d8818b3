"""How smooth a motion is: the one measure that recording and inspecting share."""

import numpy as np
import numpy.typing as npt


def roughness(values: npt.NDArray[np.floating], hz: float) -> float:
    """Root mean square jerk: of the third derivative of [N,D] over time, per second cubed; 0 for fewer than 4 rows."""
    if len(values) < 4:
        return 0.0
    jerk = np.diff(values.astype(np.float64), n=3, axis=0) * hz**3
    return float(np.sqrt(np.nanmean(jerk**2)))
