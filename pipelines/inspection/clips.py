"""Videos of episodes for a page: all cameras side by side, H.264, as bytes.

Of datasets, the pictures that are stored; of demonstrations kept as states, drawn now.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from blm.model.errors import UserError
from blm.pipelines.datasets.lerobot_video import decode_frames
from blm.pipelines.inspection.collected import CollectedFolder
from blm.pipelines.inspection.drawing import Drawer, Picture
from blm.pipelines.inspection.facts import Facts
from blm.pipelines.inspection.lerobot import Damage, DatasetFolder
from blm.pipelines.inspection.pictures import decode

DRAWN_CAMERAS = ("front", "side")
DRAWN_PX = 192
DRAWN_STRIDE = 2
"""Of states, every second one is drawn."""
HEIGHT_PX = 224
"""Smaller pictures are enlarged by whole numbers to about this height, larger ones reduced to it."""
HOLD_S = 0.5
DAMAGED = (194, 65, 59)
"""Colour that stands for a picture that cannot be decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One episode to look at."""

    mp4: bytes
    poster: bytes
    """Its first frame as JPEG, shown until it plays."""
    width_px: int
    height_px: int


def choose(facts: Sequence[Facts], count: int, flagged: set[str]) -> list[Facts]:
    """Episodes of one cell worth looking at: some that findings name, then those of median, greatest, least length."""
    by_length = sorted(facts, key=lambda one: (one.length, one.number))
    typical = [by_length[len(by_length) // 2], by_length[-1], by_length[0], *facts]
    named = [one for one in facts if one.label in flagged][: max(1, count - 1)]
    return list({one.number: one for one in [*named, *typical]}.values())[:count]


def clip(source: DatasetFolder | CollectedFolder, facts: Facts, drawer: Drawer) -> Clip | None:
    """The video of one episode; None if it has no pictures. UserError if they cannot be had or drawn."""
    if isinstance(source, CollectedFolder):
        episode = source.episode(facts.number)
        fps = episode.control_hz / DRAWN_STRIDE
        drawn = drawer.draw(episode, range(0, len(episode.states), DRAWN_STRIDE))
        pictures = [side_by_side(list(moment.values())) for moment in drawn]
    else:
        fps, pictures = source.fps, _stored(source, facts.number)
    if not pictures:
        return None
    height, width = pictures[0].shape[:2]
    buffer = BytesIO()
    Image.fromarray(pictures[0]).save(buffer, "JPEG", quality=80)
    mp4 = _encoded(pictures, max(1, round(fps)))
    return Clip(mp4=mp4, poster=buffer.getvalue(), width_px=width, height_px=height)


def _encoded(pictures: list[Picture], fps: int) -> bytes:
    from blm.actors.sim.video import held, write_video  # brings the simulator along

    with tempfile.TemporaryDirectory(prefix="blm-clip-") as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, held(pictures, round(HOLD_S * fps)), fps=fps)
        return path.read_bytes()


def _stored(dataset: DatasetFolder, number: int) -> list[Picture]:
    """An episode's frames, its cameras side by side."""
    columns = []
    try:
        for name, kind in dataset.picture_names.items():
            columns.append(
                _video_column(dataset, number, name) if kind == "video" else _image_column(dataset, number, name)
            )
    except Damage as error:
        raise UserError(f"cannot read the pictures of episode {number} ({str(error).splitlines()[0]})") from error
    return [side_by_side(frames) for frames in zip(*columns, strict=False)]


def _video_column(dataset: DatasetFolder, number: int, name: str) -> list[Picture]:
    place = dataset.video_place(number, name)
    if place is None or not dataset.fps > 0:
        raise UserError(f"meta/episodes does not say where {name} of episode {number} is")
    _, _, length = dataset.rows[number]
    return decode_frames(place[0], from_timestamp=place[1], length=length, fps=round(dataset.fps))


def _image_column(dataset: DatasetFolder, number: int, name: str) -> list[Picture]:
    height, width = (*(dataset.features[name].get("shape") or ()), 64, 64)[:2]
    blank = np.full((height, width, 3), DAMAGED, np.uint8)
    decoded = [decode(encoded) if encoded else None for encoded in dataset.pictures(number, name)]
    return [blank if picture is None else picture for picture in decoded]


def side_by_side(pictures: Sequence[Picture]) -> Picture:
    """Pictures of several cameras as one, of a good height to look at, both sides even."""
    height_px = pictures[0].shape[0]
    height_px = height_px * max(1, round(HEIGHT_PX / height_px)) if height_px <= HEIGHT_PX else HEIGHT_PX
    return np.concatenate([_resized(picture, height_px // 2 * 2) for picture in pictures], axis=1)


def _resized(picture: Picture, height_px: int) -> Picture:
    height, width = picture.shape[:2]
    factor = height_px // height
    if factor and height * factor == height_px and not width * factor % 2:
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)  # pixels stay sharp
    width_px = max(2, round(width * height_px / height) // 2 * 2)
    return np.asarray(Image.fromarray(picture).resize((width_px, height_px), Image.Resampling.BILINEAR))
