"""Videos as they are stored: a few frames, evenly spaced from the first to the last, and the rate they come at."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from blm.pipelines.datasets.chat import Video
from blm.pipelines.datasets.readers.images import encode_jpeg
from blm.pipelines.datasets.readers.record import Fault
from blm.pipelines.datasets.readers.video_file import MARGIN_S, Picture, Source, read_frames

ASSUMED_FPS = 2.0
"""Rate of a single frame, and of frames without times: what Qwen's processors assume."""
SLACK_S = 0.001
"""What rounding may cost at the ends of a part of a video."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Which frames of a video are kept."""

    fps: float = 2.0
    """Frames a second, as far as `max_frames` allows; 0 for `max_frames` of any video that has them."""
    max_frames: int = 16
    """At most."""
    max_pixels: int = 401_408
    """Of one frame: larger ones are shrunk."""
    max_megapixels: float = 64.0
    """Of one frame: videos of larger ones are refused."""


def sample_video(source: Source, sampling: Sampling, *, start_s: float = 0.0, stop_s: float = 0.0) -> Video:
    """The frames of a file (or of its bytes) that are kept, as JPEG. Fault if there are none to be had.

    start_s, stop_s: the part of the video that is meant, seconds from its first frame; a stop of 0 is its end.
    """
    pictures, fps = sample_frames(source, sampling, start_s=start_s, stop_s=stop_s)
    return Video(frames=tuple(encode_jpeg(Image.fromarray(picture)) for picture in pictures), fps=fps)


def sample_frames(
    source: Source, sampling: Sampling, *, start_s: float = 0.0, stop_s: float = 0.0
) -> tuple[list[Picture], float]:
    """The same frames as arrays, uint8 [H,W,3] each, and their rate."""
    times_s, pictures = read_frames(
        source,
        lambda seconds: choose(seconds, sampling, start_s, stop_s),
        max_pixels=sampling.max_pixels,
        max_megapixels=sampling.max_megapixels,
        start_s=start_s,
        stop_s=stop_s,
    )
    span_s = times_s[-1] - times_s[0]
    return pictures, (len(times_s) - 1) / span_s if span_s > 0 else sampling.fps or ASSUMED_FPS


def frames_at(source: Source, times_s: Sequence[float], sampling: Sampling) -> list[bytes]:
    """The frames nearest to some times, as JPEG, in the order of the times. Fault if they cannot be had."""

    def nearest(seconds: npt.NDArray[np.float64]) -> list[int]:
        return sorted({int(np.abs(seconds - time).argmin()) for time in times_s})

    found_s, pictures = read_frames(
        source,
        nearest,
        max_pixels=sampling.max_pixels,
        max_megapixels=sampling.max_megapixels,
        start_s=min(times_s),
        stop_s=max(times_s) + MARGIN_S,
    )
    places = [int(np.abs(np.asarray(found_s) - time).argmin()) for time in times_s]
    return [encode_jpeg(Image.fromarray(pictures[place])) for place in places]


def choose(
    seconds: npt.NDArray[np.float64], sampling: Sampling, start_s: float = 0.0, stop_s: float = 0.0
) -> list[int]:
    """Which frames are kept, evenly from the first to the last. seconds: [N] times of all frames, ascending."""
    inside = np.flatnonzero((seconds > start_s - SLACK_S) & (seconds < (stop_s - SLACK_S if stop_s > 0 else np.inf)))
    if not len(inside):
        raise Fault("video_empty", f"no frame between {start_s:.2f} and {stop_s:.2f} s")
    there = seconds[inside]
    n = min(sampling.max_frames, len(there))
    if sampling.fps > 0:
        by_rate = int((there[-1] - there[0]) * sampling.fps + 1e-6) + 1
        n = min(n, max(by_rate, 2))  # the shortest clip shows its beginning and its end
    if n == 1:
        return [int(inside[0])]
    targets = np.linspace(there[0], there[-1], n)
    right = np.searchsorted(there, targets).clip(1, len(there) - 1)
    nearest = np.where(targets - there[right - 1] <= there[right] - targets, right - 1, right)
    return [int(i) for i in np.unique(inside[nearest])]
