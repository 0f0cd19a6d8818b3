"""Stage `render`: kept simulator states become pictures, in a LeRobotDataset v3.0 a robot.

Demonstrations are kept as states, because physics is far cheaper than pictures; here they are replayed, at
the cameras, size and geometry of the world configuration, and only at every `stride`-th control step. Ray
Data hands one episode file at a time to a few workers, each of which keeps its simulators; every file's
frames go to a part of their own, so a killed stage goes on with the files that are left. The parts are then
assembled by (cell, seed): the result does not depend on the workers.

    blm render --preset tiny
"""

import io
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image

from blm.actors.sim.world import WorldConfig, parse_cell
from blm.model.embodiments import CONTROL_HZ, Embodiment, get_embodiment
from blm.model.errors import UserError
from blm.pipelines.datasets.items import map_items
from blm.pipelines.datasets.lerobot_schema import Feature, image_feature
from blm.pipelines.datasets.lerobot_stats import picture_histogram
from blm.pipelines.datasets.lerobot_writer import EpisodeFrames, write_lerobot
from blm.pipelines.datasets.parquet import open_parquet, read_table, remove_leftovers, write_table
from blm.pipelines.workspace import StageContext

if TYPE_CHECKING:  # the simulator takes seconds to import, and only the workers need it
    from blm.actors.sim.env import CellEnv
    from blm.actors.sim.episode import Episode

VERSION = 1

PICTURE_PREFIX = "observation.images."
POSITION_NAMES = tuple(f"{thing}.{axis}_m" for thing in ("tcp", "object", "goal") for axis in "xyz")


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderConfig:
    """Which frames are rendered and how they are stored."""

    stride: int = 2
    """Control steps from one frame to the next; the dataset's fps is the control rate divided by it."""
    image_format: Literal["png", "jpeg"] = "png"
    """`png` is exact and, for the flat colours of `lite` geometry, also the smaller; `jpeg` (quality 95)
    suits meshes.
    """
    chunk: int = 16
    """Length H of the action chunk stored with every frame, in control steps."""

    def __post_init__(self) -> None:
        if self.stride < 1 or CONTROL_HZ % self.stride:
            raise UserError(f"render.stride is {self.stride}; give a divisor of the control rate, {CONTROL_HZ}")
        if self.image_format not in ("png", "jpeg"):
            raise UserError(f"render.image_format is {self.image_format!r}; give png or jpeg")
        if self.chunk < 1:
            raise UserError(f"render.chunk is {self.chunk}; give 1 or more")

    @property
    def fps(self) -> int:
        """Frames per second of the dataset."""
        return CONTROL_HZ // self.stride


def render(config: RenderConfig, context: StageContext) -> dict[str, Any]:
    """Render every episode that `collect` kept. Returns counts per robot.

    UserError if there is no episode, a file is damaged, or an episode belongs to another simulator
    description.
    """
    files = _episode_files(context.inputs["collect"])
    parts = context.out / "parts"
    remove_leftovers(parts)
    items = [{"source": str(path), "part": str(parts / f"{path.parent.name}-{path.stem}.parquet")} for path in files]
    waiting = [item for item in items if not Path(item["part"]).exists()]
    if len(waiting) < len(items):
        context.progress(f"{len(items) - len(waiting)} of {len(items)} episode files were rendered before")
    started_s = time.perf_counter()
    arguments = {"config": config, "world": context.world}
    n_frames = 0
    results = map_items(waiting, RenderWorker, arguments=arguments, workers=context.resources.actors)
    for done, result in enumerate(results, start=1):
        n_frames += result["frames"]
        if done == len(waiting) or done % max(1, len(waiting) // 10) == 0:
            rate = n_frames / (time.perf_counter() - started_s)
            context.progress(f"{done}/{len(waiting)} episode files, {n_frames} frames, {rate:.0f} frames/s")
    summary = _assemble(config, context, [Path(item["part"]) for item in items])
    shutil.rmtree(parts)
    context.tracker.log_metrics({"render_s": time.perf_counter() - started_s, "datasets": summary["datasets"]})
    return summary


def _episode_files(collect: Path) -> list[Path]:
    """The files of episodes, in order. UserError if there is none or one is damaged."""
    found = (collect / "episodes").glob("*/*.parquet")
    files = sorted(path for path in found if not path.name.startswith("."))  # a dot begins an unfinished file
    for path in files:
        open_parquet(path).close()
    if not files:
        raise UserError(f"{collect / 'episodes'} holds no episodes; run the collect stage first")
    return files


class RenderWorker:
    """Renders one file of episodes at a time. Called by Ray Data; works as well without."""

    def __init__(self, config: RenderConfig, world: WorldConfig) -> None:
        from blm.actors.renderer import Renderer

        self.config = config
        self.renderer = Renderer(world)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        from blm.actors.sim.episode import read_episodes

        rows = []
        for episode in read_episodes(Path(item["source"])):
            env = self.renderer.env(parse_cell(f"{episode.robot}/{episode.task}"))
            rows.append(_to_row(render_episode(env, episode, self.config), episode.robot))
        write_table(Path(item["part"]), pa.Table.from_pylist(rows))
        return {"part": item["part"], "frames": sum(row["length"] for row in rows)}


def render_episode(env: "CellEnv", episode: "Episode", config: RenderConfig) -> EpisodeFrames:
    """Replay an episode and take the frames at control steps 0, stride, 2 stride, ... up to the final state.

    With T control steps: `action` is the target in force when the next frame is taken, `action_chunk` the H
    targets from this step on, the last one repeated past the end and marked as padding.
    """
    from blm.actors.renderer import encode_picture

    n_steps = len(episode.actions)
    if episode.states.shape[1] != env.state().size:
        raise UserError(
            f"episode {episode.cell} seed {episode.seed} has simulator states of {episode.states.shape[1]} numbers,"
            f" this version has {env.state().size}; run the collect stage again"
        )
    steps = np.arange(0, n_steps + 1, config.stride)
    pictures: dict[str, list[bytes]] = {}
    success = []
    for step in steps:
        env.set_state(episode.states[step])
        success.append(env.success())
        for camera, picture in env.render().items():
            name = f"{PICTURE_PREFIX}{camera}"
            pictures.setdefault(name, []).append(encode_picture(picture, config.image_format))
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
        pictures=pictures,
        histograms={name: picture_histogram(encoded) for name, encoded in pictures.items()},
        extra={"cell": env.cell.name, "seed": int(episode.seed), "geometry": env.geometry},
    )


def dataset_features(embodiment: Embodiment, world: WorldConfig, config: RenderConfig) -> dict[str, Feature]:
    """The columns of a robot's dataset, before the five that every dataset ends with."""
    cameras = {f"{PICTURE_PREFIX}{camera}": image_feature(world.image_px) for camera in world.cameras}
    return cameras | {
        "observation.state": Feature(dtype="float32", shape=(embodiment.state_dim,), names=embodiment.state_names),
        "action": Feature(dtype="float32", shape=(embodiment.action_dim,), names=embodiment.action_names),
        "action_chunk": Feature(dtype="float32", shape=(config.chunk, embodiment.action_dim)),
        "action_chunk_is_pad": Feature(dtype="bool", shape=(config.chunk,)),
        "privileged.object_positions": Feature(dtype="float32", shape=(9,), names=POSITION_NAMES),
        "next.success": Feature(dtype="bool", shape=(1,)),
    }


# ---------------------------------------------------------------------------------------- parts and assembly


def _to_row(frames: EpisodeFrames, robot: str) -> dict[str, Any]:
    """An episode as one row of a part: arrays flattened, the histograms behind the pictures."""
    return {
        "robot": robot,
        "task": frames.task,
        "length": frames.length,
        **frames.extra,
        **{name: array.reshape(-1).tolist() for name, array in frames.values.items()},
        **frames.pictures,
        **{f"histogram/{name}": counts.reshape(-1).tolist() for name, counts in frames.histograms.items()},
    }


def _from_row(row: dict[str, Any], features: dict[str, Feature]) -> EpisodeFrames:
    numeric = {name: feature for name, feature in features.items() if not feature.is_image}
    pictures = [name for name, feature in features.items() if feature.is_image]
    n = row["length"]
    return EpisodeFrames(
        task=row["task"],
        values={name: np.array(row[name], dtype=f.dtype).reshape(n, *f.shape) for name, f in numeric.items()},
        pictures={name: row[name] for name in pictures},
        histograms={name: np.array(row[f"histogram/{name}"]).reshape(3, 256) for name in pictures},
        extra={name: row[name] for name in ("cell", "seed", "geometry")},
    )


def _assemble(config: RenderConfig, context: StageContext, parts: list[Path]) -> dict[str, Any]:
    """Write one dataset a robot from the parts, episodes ordered by cell, then seed."""
    order: dict[str, list[tuple[str, int, Path, int]]] = {}
    for part in parts:
        for row, keys in enumerate(read_table(part, ["robot", "cell", "seed"]).to_pylist()):
            order.setdefault(keys["robot"], []).append((keys["cell"], keys["seed"], part, row))
    summary: dict[str, Any] = {"fps": config.fps, "datasets": {}, "cells": {}}
    for robot, places in sorted(order.items()):
        places.sort()
        features = dataset_features(get_embodiment(robot), context.world, config)
        root = context.out / "lerobot" / robot
        info = write_lerobot(
            root,
            robot_type=robot,
            fps=config.fps,
            features=features,
            episodes=_episodes_in_order(places, features),
        )
        _write_examples(context.out / "examples", places, features)
        size_mb = sum(path.stat().st_size for path in root.rglob("*.parquet")) / 2**20
        summary["datasets"][robot] = {
            "episodes": info["total_episodes"], "frames": info["total_frames"], "size_mb": round(size_mb, 2)
        }  # fmt: skip
        for cell, *_ in places:
            summary["cells"][cell] = summary["cells"].get(cell, 0) + 1
        context.progress(f"{robot}: {info['total_episodes']} episodes, {info['total_frames']} frames, {size_mb:.1f} MB")
    return summary


def _write_examples(folder: Path, places: list[tuple[str, int, Path, int]], features: dict[str, Feature]) -> None:
    """`<cell>/<camera>.png` of each cell's first frame: something to show to a served model."""
    for cell, of_cell in groupby(places, key=lambda place: place[0]):
        _, _, part, row = next(of_cell)
        first = _from_row(read_table(part).slice(row, 1).to_pylist()[0], features)
        out = folder / parse_cell(cell).slug
        out.mkdir(parents=True, exist_ok=True)
        for name, encoded in first.pictures.items():
            Image.open(io.BytesIO(encoded[0])).save(out / f"{name.removeprefix(PICTURE_PREFIX)}.png")


def _episodes_in_order(
    places: list[tuple[str, int, Path, int]], features: dict[str, Feature]
) -> Iterator[EpisodeFrames]:
    """Episodes one by one. Parts hold neighbouring seeds, so keeping the last one open reads each about once."""
    opened: tuple[Path, pa.Table] | None = None
    previous: tuple[str, int] | None = None
    for cell, seed, part, row in places:
        if (cell, seed) == previous:
            raise UserError(f"collect kept two episodes of {cell} seed {seed}; run the collect stage again")
        previous = (cell, seed)
        if opened is None or opened[0] != part:
            opened = (part, read_table(part))
        yield _from_row(opened[1].slice(row, 1).to_pylist()[0], features)
