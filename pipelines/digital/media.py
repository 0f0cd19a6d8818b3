"""Pictures and clips as the model is shown them: decoded, sampled in time, and no larger than allowed.

Both engines get the same arrays, and videos are sampled by the code that samples them for training.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blm.model.errors import UserError
from blm.pipelines.datasets.parquet import open_parquet
from blm.pipelines.datasets.readers.record import Fault
from blm.pipelines.datasets.readers.videos import Sampling, sample_frames
from blm.pipelines.digital.item import Media

MOST_PIXELS = 16384 * 28 * 28
"""Of all frames of a video together; Qwen2.5-VL makes a token of 1568."""


class MediaError(Exception):
    """A picture or clip that cannot be shown; the message names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaRules:
    """How much of a picture or clip is shown."""

    fps: float = 4.0
    """Frames a second taken from a video."""
    frames: int = 0
    """Frames taken from a video, spread evenly, instead of a rate; 0: by `fps`."""
    max_frames: int = 64
    """Most frames of a video; a longer one is sampled more thinly."""
    max_image_pixels: int = 1280 * 28 * 28
    """Larger pictures are shrunk to that many pixels."""
    max_video_pixels: int = MOST_PIXELS
    """All frames of a video together are shrunk to that many pixels."""

    def __post_init__(self) -> None:
        for name in ("fps", "max_frames", "max_image_pixels", "max_video_pixels"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}; give a number above 0")
        if self.frames < 0:
            raise UserError(f"frames is {self.frames}; give 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Clip:
    """Frames of a video."""

    frames: np.ndarray
    """uint8 [F, H, W, 3]."""
    fps: float
    """Frames a second among them."""


Shown = Image.Image | Clip


def show(media: Media, rules: MediaRules) -> Shown:
    """A picture (RGB) or clip within the rules. MediaError naming it if it is missing or damaged."""
    try:
        if media.kind == "image":
            data = Path(media.path).read_bytes() if media.row < 0 else _stored_image(media)
            return _shrunk(Image.open(io.BytesIO(data)).convert("RGB"), rules.max_image_pixels)
        if media.row < 0:
            return clip_of(*_sample(media.path, rules), rules.max_video_pixels)
        stored = _row(media.path, media.row)["videos"][media.index]
        pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in stored["frames"]]
        return clip_of(pictures, stored["fps"], rules.max_video_pixels)
    except (Fault, OSError, ValueError, KeyError, IndexError, TypeError, Image.DecompressionBombError) as error:
        raise MediaError(f"{media.name}: {type(error).__name__}: {error}") from error


def _stored_image(media: Media) -> bytes:
    """A picture of a Parquet row: one of our own `images`, or the `image` of a Hugging Face dataset."""
    row = _row(media.path, media.row)
    data = row["images"][media.index] if row.get("images") is not None else row["image"]["bytes"]
    return bytes(data)


@lru_cache(maxsize=2)
def _row_group(path: str, group: int) -> Any:
    file = open_parquet(path)
    names = [name for name in ("images", "videos", "image") if name in file.schema_arrow.names]
    return file.read_row_group(group, columns=names)


def _row(path: str, row: int) -> dict[str, Any]:
    """The media columns of one row of a Parquet file."""
    metadata = open_parquet(path).metadata
    for group in range(metadata.num_row_groups):
        if row < metadata.row_group(group).num_rows:
            found: dict[str, Any] = _row_group(path, group).slice(row, 1).to_pylist()[0]
            return found
        row -= metadata.row_group(group).num_rows
    raise IndexError(f"the file has no row {row}")


# -------------------------------------------------------------------------------------------------------------- videos


def _sample(path: str, rules: MediaRules) -> tuple[list[Image.Image], float]:
    """Frames of a video file, evenly from the first to the last, and their rate; by the sampler of training data."""
    sampling = Sampling(
        fps=0.0 if rules.frames else rules.fps,
        max_frames=min(rules.frames or rules.max_frames, rules.max_frames),
        max_pixels=rules.max_image_pixels,
    )
    frames, fps = sample_frames(path, sampling)
    return [Image.fromarray(frame) for frame in frames], fps


def clip_of(pictures: Sequence[Image.Image], fps: float, max_pixels: int = MOST_PIXELS) -> Clip:
    """Pictures as a clip, all of the first one's size and together of at most `max_pixels`."""
    small = [_shrunk(picture, max_pixels // len(pictures)) for picture in pictures]
    return Clip(frames=np.stack([np.asarray(picture.resize(small[0].size)) for picture in small]), fps=float(fps))


def _shrunk(picture: Image.Image, max_pixels: int) -> Image.Image:
    """The picture, made smaller if it has more pixels than that."""
    pixels = picture.width * picture.height
    if pixels <= max_pixels:
        return picture
    scale = math.sqrt(max_pixels / pixels)
    size = (max(int(picture.width * scale), 1), max(int(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.BICUBIC)
