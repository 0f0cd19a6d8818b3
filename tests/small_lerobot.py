"""Three small episodes as a LeRobotDataset, with pictures or with videos."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from blm.pipelines.datasets.lerobot_schema import Feature, image_feature
from blm.pipelines.datasets.lerobot_stats import picture_histogram
from blm.pipelines.datasets.lerobot_video import encode_segment
from blm.pipelines.datasets.lerobot_writer import EpisodeFrames, write_lerobot

LENGTHS = (5, 7, 4)
CAMERA = "observation.images.front"
FEATURES = {
    CAMERA: image_feature(28),
    "observation.state": Feature(dtype="float32", shape=(3,), names=("a", "b", "c")),
    "action": Feature(dtype="float32", shape=(2,), names=("a", "b")),
    "action_chunk": Feature(dtype="float32", shape=(4, 2)),
    "action_chunk_is_pad": Feature(dtype="bool", shape=(4,)),
    "next.success": Feature(dtype="bool", shape=(1,)),
}


def encode(picture: np.ndarray, image_format: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, image_format)
    return buffer.getvalue()


def make_episode(index: int, image_format: str = "PNG") -> EpisodeFrames:
    rng = np.random.default_rng(index)
    n = LENGTHS[index]
    pictures = [encode(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8), image_format) for _ in range(n)]
    return EpisodeFrames(
        task="push the cube" if index == 1 else "pick the cube",
        values={
            "observation.state": rng.normal(size=(n, 3)).astype(np.float32),
            "action": rng.normal(size=(n, 2)).astype(np.float32),
            "action_chunk": rng.normal(size=(n, 4, 2)).astype(np.float32),
            "action_chunk_is_pad": rng.random((n, 4)) < 0.5,
            "next.success": np.arange(n) == n - 1,
        },
        pictures={CAMERA: pictures},
        histograms={CAMERA: picture_histogram(pictures)},
        extra={"cell": "panda/PushCube", "seed": 40 + index, "geometry": "lite"},
    )


def make_dataset(root: Path, image_format: str = "PNG") -> list[EpisodeFrames]:
    episodes = [make_episode(i, image_format) for i in range(3)]
    write_lerobot(root, robot_type="panda", fps=10, features=FEATURES, episodes=episodes)
    return episodes


def shades(index: int) -> list[np.ndarray]:
    """An episode's pictures for videos: no two frames of the dataset are equally bright, and all are smooth."""
    first = sum(LENGTHS[:index])
    slope = np.tile(np.arange(28, dtype=np.uint8)[:, None, None], (1, 28, 3))
    return [slope + np.uint8(12 * (first + i)) for i in range(LENGTHS[index])]


def make_video_dataset(root: Path) -> list[EpisodeFrames]:
    episodes = [
        replace(make_episode(i), pictures={}, videos={CAMERA: encode_segment(shades(i), fps=10)}) for i in range(3)
    ]
    features = FEATURES | {CAMERA: image_feature(28, video=True)}
    write_lerobot(root, robot_type="panda", fps=10, features=features, episodes=episodes)
    return episodes
