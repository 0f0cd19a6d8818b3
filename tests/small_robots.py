"""Small robot datasets in the shapes of other people's: one pusher with videos, two arms with images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from blm.pipelines.datasets.foreign import RobotSourceConfig, check_source, write_source
from blm.pipelines.datasets.lerobot_schema import Feature
from blm.pipelines.datasets.lerobot_stats import histogram_of
from blm.pipelines.datasets.lerobot_video import encode_segment
from blm.pipelines.datasets.lerobot_writer import EpisodeFrames, write_lerobot

PICTURE_NAMES = ("height", "width", "channels")
PUSHT_LENGTHS = (9, 14, 11)
ALOHA_LENGTHS = (12, 8)


def grey(episode: int, frame: int) -> int:
    """The level of a frame's picture, which tells frames apart."""
    return 30 + 40 * episode + 4 * frame


def write_pusht(root: Path, *, spoil: Any = None) -> Path:
    """Two numbers in pixels, a video, and every episode in one row group, as lerobot's converter writes them.

    spoil: called with the values of each episode, to damage them.
    """
    features = {
        "observation.image": Feature(dtype="video", shape=(96, 96, 3), names=PICTURE_NAMES),
        "observation.state": Feature(dtype="float32", shape=(2,), names=("motor_0", "motor_1")),
        "action": Feature(dtype="float32", shape=(2,), names=("motor_0", "motor_1")),
    }
    episodes = []
    for number, length in enumerate(PUSHT_LENGTHS):
        pictures = [np.full((96, 96, 3), grey(number, k), dtype=np.uint8) for k in range(length)]
        state = np.stack([np.arange(length) + 100.0 * number, np.full(length, 250.0)], axis=1).astype(np.float32)
        values = {"observation.state": state, "action": state + np.float32([1, 0])}
        if spoil is not None:
            spoil(number, values)
        episodes.append(
            EpisodeFrames(
                task="Push the T-shaped block onto the T-shaped target.",
                values=values,
                pictures={},
                videos={"observation.image": encode_segment(pictures, 10)},
                histograms={"observation.image": histogram_of(pictures)},
            )
        )
    write_lerobot(root, robot_type="unknown", fps=10, features=features, episodes=episodes)
    data = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(data), data)
    return root


def write_aloha(root: Path) -> Path:
    """Fourteen joints at 50 frames a second and images that are wider than high."""
    features = {
        "observation.images.top": Feature(dtype="image", shape=(24, 32, 3), names=PICTURE_NAMES),
        "observation.state": Feature(dtype="float32", shape=(14,)),
        "action": Feature(dtype="float32", shape=(14,)),
    }
    episodes = []
    for number, length in enumerate(ALOHA_LENGTHS):
        pictures = [np.full((24, 32, 3), grey(number, k), dtype=np.uint8) for k in range(length)]
        state = np.arange(length * 14, dtype=np.float32).reshape(length, 14) / 100 + number
        episodes.append(
            EpisodeFrames(
                task="insert the peg",
                values={"observation.state": state, "action": state + 0.5},
                pictures={"observation.images.top": [_png(one) for one in pictures]},
                histograms={"observation.images.top": histogram_of(pictures)},
            )
        )
    write_lerobot(root, robot_type="aloha", fps=50, features=features, episodes=episodes)
    return root


def pusht(root: Path, **more: Any) -> RobotSourceConfig:
    """How a pusher's dataset is read."""
    cameras = {"front": "observation.image"}
    return RobotSourceConfig(**{"name": "pusht", "root": root, "cameras": cameras, "relative_to": (0, 1)} | more)


def aloha(root: Path, **more: Any) -> RobotSourceConfig:
    """How a dataset of two arms is read: grippers absolute, every second frame an action."""
    relative = tuple(-1 if i in (6, 13) else i for i in range(14))
    cameras = {"front": "observation.images.top"}
    given = {"name": "aloha", "root": root, "cameras": cameras, "relative_to": relative, "control_hz": 25}
    return RobotSourceConfig(**given | more)


def use(folder: Path, config: RobotSourceConfig, image_px: int = 32) -> Path:
    """The folder of the robot in a render stage."""
    write_source(folder, check_source(config, ("front",), image_px))
    return folder


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
