"""A small real LeRobotDataset, written by our own writer, whose pictures show where the object is."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from blm.actors.sim.world import WorldConfig
from blm.model.embodiments import Embodiment, get_embodiment
from blm.model.types import Observation
from blm.pipelines.datasets.lerobot_stats import picture_histogram
from blm.pipelines.datasets.lerobot_writer import EpisodeFrames, write_lerobot
from blm.pipelines.render import RenderConfig, dataset_features

if TYPE_CHECKING:
    from blm.model.predictor import BlmPolicy

SIDE = 56
WORLD = WorldConfig(cells=("panda/PushCube",), cameras=("front",), image_px=SIDE)
FRAMES = 12


def write_dataset(root: Path, episodes: int = 20, seed: int = 0, robot: str = "panda") -> Path:
    """Episodes of FRAMES frames of one square at a place that differs by episode; actions point to it."""
    body = get_embodiment(robot)
    rng = np.random.default_rng(seed)
    write_lerobot(
        root,
        robot_type=robot,
        fps=10,
        features=dataset_features(body, WORLD, RenderConfig()),
        episodes=[_episode(rng, number, body) for number in range(episodes)],
    )
    return root


def look(robot: str) -> Observation:
    """What a robot of these datasets sees where there is no square, and is told."""
    return Observation(
        images={"front": np.full((SIDE, SIDE, 3), 180, np.uint8)},
        state=np.zeros(get_embodiment(robot).state_dim, np.float32),
        instruction="push the cube to the target",
        embodiment=robot,
    )


def acting_for_both(folder: Path) -> "BlmPolicy":
    """The checkpoint in `folder`, which answers a Panda and an xArm 6 together."""
    from blm.model.predictor import BlmPolicy

    policy = BlmPolicy.load(folder)
    chunks = policy.infer_batch([look("panda"), look("xarm6")], [0, 1])
    assert [chunk.actions.shape for chunk in chunks] == [(16, 8), (16, 7)]
    assert all(np.isfinite(chunk.actions).all() for chunk in chunks)
    return policy


def _episode(rng: np.random.Generator, number: int, body: Embodiment) -> EpisodeFrames:
    place = rng.uniform(-0.15, 0.15, 2)
    pictures = [_png(_picture(place)) for _ in range(FRAMES)]
    state = rng.normal(0, 0.1, (FRAMES, body.state_dim)).astype(np.float32)
    chunk = np.repeat(state[:, None], 16, axis=1)[..., : body.action_dim] + place[0].astype(np.float32)
    is_pad = np.arange(16)[None] + 2 * np.arange(FRAMES)[:, None] >= 2 * (FRAMES - 1)
    positions = np.concatenate([np.zeros(3), [*place, 0.02], [*(place + 0.1), 0.0]]).astype(np.float32)
    return EpisodeFrames(
        task="push the cube to the target",
        values={
            "observation.state": state,
            "action": chunk[:, 0],
            "action_chunk": chunk,
            "action_chunk_is_pad": is_pad,
            "privileged.object_positions": np.tile(positions, (FRAMES, 1)),
            "next.success": np.zeros((FRAMES, 1), dtype=bool),
        },
        pictures={"observation.images.front": pictures},
        histograms={"observation.images.front": picture_histogram(pictures)},
        extra={"cell": f"{body.name}/PushCube", "seed": number, "geometry": "lite"},
    )


def _picture(place: np.ndarray) -> np.ndarray:
    picture = np.full((SIDE, SIDE, 3), 180, dtype=np.uint8)
    x, y = (SIDE / 2 + place * SIDE * 2).astype(int)
    picture[y - 4 : y + 4, x - 4 : x + 4] = (20, 40, 200)
    return picture


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
