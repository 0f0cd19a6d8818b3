"""Work of the render stage on one episode: which of its states are drawn, with which look, and what goes with them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blm.actors.sim.cameras import CAMERAS
from blm.actors.sim.look import PLAIN, Look, draw_look
from blm.actors.sim.world import WorldConfig, parse_cell
from blm.model.embodiments import Embodiment
from blm.model.errors import UserError
from blm.pipelines.datasets.lerobot_schema import Feature, image_feature
from blm.pipelines.datasets.lerobot_stats import histogram_of, picture_histogram
from blm.pipelines.datasets.lerobot_video import encode_segment
from blm.pipelines.datasets.lerobot_writer import EpisodeFrames
from blm.pipelines.datasets.parquet import write_table

if TYPE_CHECKING:  # the simulator takes seconds to import, and only the workers need it
    from blm.actors.sim.env import CellEnv
    from blm.actors.sim.episode import Episode
    from blm.pipelines.render import RenderConfig

PICTURE_PREFIX = "observation.images."
POSITION_NAMES = tuple(f"{thing}.{axis}_m" for thing in ("tcp", "object", "goal") for axis in "xyz")
EXTRA_NAMES = ("cell", "seed", "geometry", "planner_version", "variant", "first_plan", "disturbed")
"""Columns of an episode's metadata beyond the format's own."""


def dataset_features(embodiment: Embodiment, world: WorldConfig, config: "RenderConfig") -> dict[str, Feature]:
    """The columns of a robot's dataset, before the five that every dataset ends with."""
    picture = image_feature(world.image_px, video=config.storage == "video")
    return {f"{PICTURE_PREFIX}{camera}": picture for camera in world.cameras} | {
        "observation.state": Feature(dtype="float32", shape=(embodiment.state_dim,), names=embodiment.state_names),
        "action": Feature(dtype="float32", shape=(embodiment.action_dim,), names=embodiment.action_names),
        "action_chunk": Feature(dtype="float32", shape=(config.chunk, embodiment.action_dim)),
        "action_chunk_is_pad": Feature(dtype="bool", shape=(config.chunk,)),
        "privileged.object_positions": Feature(dtype="float32", shape=(9,), names=POSITION_NAMES),
        "next.success": Feature(dtype="bool", shape=(1,)),
    }


class RenderWorker:
    """Renders one file of episodes at a time. Called by Ray Data; works as well without."""

    def __init__(self, config: "RenderConfig", world: WorldConfig) -> None:
        from blm.actors.renderer import Renderer

        self.config = config
        self.world = world
        self.renderer = Renderer(world)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        from blm.actors.sim.episode import read_episodes

        rows = [row for episode in read_episodes(Path(item["source"])) for row in self._rows(episode)]
        write_table(Path(item["part"]), pa.Table.from_pylist(rows))
        return {"part": item["part"], "frames": sum(row["length"] for row in rows)}

    def _rows(self, episode: "Episode") -> Iterator[dict[str, Any]]:
        """An episode in all its variants."""
        env = self.renderer.env(parse_cell(f"{episode.robot}/{episode.task}"))
        for variant in range(self.config.variants):
            look = self._look(episode, variant)
            yield _to_row(render_episode(env, episode, self.config, look=look, variant=variant), episode.robot)

    def _look(self, episode: "Episode", variant: int) -> Look:
        if variant == 0 and self.config.plain_first:
            return PLAIN
        cameras = [CAMERAS[name] for name in self.world.cameras]
        return draw_look(self.config.look, cell=episode.cell, seed=episode.seed, variant=variant, cameras=cameras)


def render_episode(
    env: "CellEnv", episode: "Episode", config: "RenderConfig", *, look: Look = PLAIN, variant: int = 0
) -> EpisodeFrames:
    """Replay an episode and take the frames at control steps 0, stride, 2 stride, ... up to the final state.

    With T control steps: `action` is the target in force when the next frame is taken, `action_chunk` the H
    targets from this step on, the last one repeated past the end and marked as padding.
    """
    n_steps = len(episode.actions)
    if episode.states.shape[1] != env.state().size:
        raise UserError(
            f"episode {episode.cell} seed {episode.seed} has simulator states of {episode.states.shape[1]} numbers,"
            f" this version has {env.state().size}; run the collect stage again"
        )
    steps = np.arange(0, n_steps + 1, config.stride)
    pictures: dict[str, list[npt.NDArray[np.uint8]]] = {}
    success = []
    env.set_look(look)
    for step in steps:
        env.set_state(episode.states[step])
        success.append(env.success())
        for camera, picture in env.render().items():
            pictures.setdefault(f"{PICTURE_PREFIX}{camera}", []).append(picture)
    chunk_steps = steps[:, None] + np.arange(config.chunk)
    values = {
        "observation.state": episode.proprio[steps],
        "action": episode.actions[np.minimum(steps + config.stride - 1, n_steps - 1)],
        "action_chunk": episode.actions[np.minimum(chunk_steps, n_steps - 1)],
        "action_chunk_is_pad": chunk_steps >= n_steps,
        "privileged.object_positions": episode.object_positions[steps],
        "next.success": np.array([*success[1:], episode.success]),
    }
    return EpisodeFrames(
        task=episode.instruction,
        values=values,
        **_encoded(pictures, config),
        extra={
            "cell": env.cell.name,
            "seed": int(episode.seed),
            "geometry": env.geometry,
            "planner_version": int(episode.metrics.get("planner_version", 0)),
            "first_plan": episode.metrics.get("attempts", 1) == 1,
            "disturbed": bool(episode.metrics.get("disturbed", False)),
            "variant": variant,
        },
    )


def _encoded(pictures: dict[str, list[npt.NDArray[np.uint8]]], config: "RenderConfig") -> dict[str, Any]:
    """Pictures as the dataset keeps them, and their histograms: of what a reader gets from images, exactly."""
    from blm.actors.renderer import encode_picture

    if config.storage == "video":
        videos = {name: encode_segment(frames, config.fps) for name, frames in pictures.items()}
        return {"pictures": {}, "videos": videos, "histograms": {n: histogram_of(f) for n, f in pictures.items()}}
    encoded = {name: [encode_picture(one, config.image_format) for one in frames] for name, frames in pictures.items()}
    return {"pictures": encoded, "histograms": {name: picture_histogram(one) for name, one in encoded.items()}}


def _to_row(frames: EpisodeFrames, robot: str) -> dict[str, Any]:
    """An episode as one row of a part: arrays flattened, the histograms behind the pictures."""
    return {
        "robot": robot,
        "task": frames.task,
        "length": frames.length,
        **frames.extra,
        **{name: array.reshape(-1).tolist() for name, array in frames.values.items()},
        **frames.pictures,
        **frames.videos,
        **{f"histogram/{name}": counts.reshape(-1).tolist() for name, counts in frames.histograms.items()},
    }


def from_row(row: dict[str, Any], features: dict[str, Feature]) -> EpisodeFrames:
    """The episode of a row that a worker wrote."""
    numeric = {name: feature for name, feature in features.items() if not feature.is_picture}
    pictures = [name for name, feature in features.items() if feature.is_picture]
    n = row["length"]
    return EpisodeFrames(
        task=row["task"],
        values={name: np.array(row[name], dtype=f.dtype).reshape(n, *f.shape) for name, f in numeric.items()},
        pictures={name: row[name] for name in pictures if not features[name].is_video},
        videos={name: row[name] for name in pictures if features[name].is_video},
        histograms={name: np.array(row[f"histogram/{name}"]).reshape(3, 256) for name in pictures},
        extra={name: row[name] for name in EXTRA_NAMES},
    )
