"""Stage `render`: kept simulator states become pictures, in a LeRobotDataset v3.0 a robot.

Demonstrations are kept as states, because physics is far cheaper than pictures; here they are replayed, at
the cameras, size and geometry of the world configuration, and only at every `stride`-th control step. One
demonstration can be drawn several times, with other camera poses, light and table each time (`variants`).
Ray Data hands one episode file at a time to a few workers, each of which keeps its simulators; every file's
frames go to a part of their own, so a killed stage goes on with the files that are left. The parts are then
assembled by (cell, seed, variant): the result does not depend on the workers.

Robot datasets from elsewhere (`sources`) are checked here, and found beside the others from then on; they are read
where they lie.

    blm render --preset tiny
"""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from PIL import Image

from blm.actors.sim.cameras import CAMERAS, check_camera
from blm.actors.sim.episode import episode_files
from blm.actors.sim.look import LookConfig
from blm.actors.sim.world import WorldConfig, parse_cell
from blm.cluster import depot
from blm.model.embodiments import CONTROL_HZ, get_embodiment
from blm.model.errors import UserError
from blm.pipelines.datasets.foreign import RobotSourceConfig
from blm.pipelines.datasets.items import map_items
from blm.pipelines.datasets.lerobot_schema import Feature
from blm.pipelines.datasets.lerobot_video import first_frame
from blm.pipelines.datasets.lerobot_writer import EpisodeFrames, write_lerobot
from blm.pipelines.datasets.parquet import open_parquet, read_table, remove_leftovers
from blm.pipelines.render_frames import PICTURE_PREFIX, RenderWorker, dataset_features, from_row
from blm.pipelines.workspace import StageContext

VERSION = 3

Place = tuple[str, int, int, Path, int]
"""Cell, seed and variant of an episode, the part it is in, and its row there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderConfig:
    """Which frames are rendered and how they are stored."""

    stride: int = 2
    """Control steps from one frame to the next; the dataset's fps is the control rate divided by it."""
    image_format: Literal["png", "jpeg"] = "png"
    """`png` is exact and, for the flat colours of `lite` geometry, also the smaller; `jpeg` (quality 95)
    suits meshes.
    """
    storage: Literal["images", "video"] = "images"
    """`images` keeps pictures in Parquet; `video` an MP4 a camera: far smaller, no longer exact, and whoever trains
    on single frames decodes two.
    """
    variants: int = 1
    """How many times every episode is drawn; each further time is an episode of its own with another look."""
    plain_first: bool = True
    """Whether the first variant has the plain look, which is the one of rollouts."""
    look: LookConfig = field(default_factory=LookConfig)
    """What the looks of the others are drawn from."""
    chunk: int = 16
    """Length H of the action chunk stored with every frame, in control steps."""
    sources: tuple[RobotSourceConfig, ...] = ()
    """Robot datasets that were not made here, and what their columns mean."""

    def __post_init__(self) -> None:
        if self.stride < 1 or CONTROL_HZ % self.stride:
            raise UserError(f"render.stride is {self.stride}; give a divisor of the control rate, {CONTROL_HZ}")
        if self.image_format not in ("png", "jpeg"):
            raise UserError(f"render.image_format is {self.image_format!r}; give png or jpeg")
        if self.storage not in ("images", "video"):
            raise UserError(f"render.storage is {self.storage!r}; give images or video")
        for name in ("chunk", "variants"):
            if getattr(self, name) < 1:
                raise UserError(f"render.{name} is {getattr(self, name)}; give 1 or more")
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"render.sources has two robots named {twice[0]}; give each a name of its own")

    @property
    def fps(self) -> int:
        """Frames per second of the dataset."""
        return CONTROL_HZ // self.stride

    @property
    def draws_looks(self) -> bool:
        """Whether any variant has another look than the plain one."""
        return self.variants > 1 or not self.plain_first


def render(config: RenderConfig, context: StageContext) -> dict[str, Any]:
    """Render every episode that `collect` kept. Returns counts per robot.

    UserError if there is no episode, a file is damaged, an episode belongs to another simulator description, or a
    camera would see nothing.
    """
    _check_pictures(config, context.world)
    sources = _add_sources(config, context)
    files = _episode_files(context.inputs["collect"], needed=not sources)
    parts = context.out / "parts"
    remove_leftovers(parts)
    items = [{"source": str(path), "part": str(parts / f"{path.parent.name}-{path.stem}.parquet")} for path in files]
    waiting = [item for item in items if not Path(item["part"]).exists()]
    if len(waiting) < len(items):
        context.progress(f"{len(items) - len(waiting)} of {len(items)} episode files were rendered before")
    started_s = time.perf_counter()
    arguments = {"config": config, "world": context.world}
    n_frames = 0
    results = map_items(
        waiting,
        RenderWorker,
        arguments=arguments,
        workers=context.resources.simulators,
        reads=("source",),
        writes=("part",),
    )
    for done, result in enumerate(results, start=1):
        n_frames += result["frames"]
        if done == len(waiting) or done % max(1, len(waiting) // 10) == 0:
            rate = n_frames / (time.perf_counter() - started_s)
            context.progress(f"{done}/{len(waiting)} episode files, {n_frames} frames, {rate:.0f} frames/s")
    summary = _assemble(config, context, [Path(item["part"]) for item in items])
    summary["datasets"] |= sources
    depot.drop(parts)
    context.tracker.log_metrics({"render_s": time.perf_counter() - started_s, "datasets": summary["datasets"]})
    return summary


def _add_sources(config: RenderConfig, context: StageContext) -> dict[str, dict[str, int]]:
    """Check the datasets that are not made here, from the first number to the last, and write down how they are read.
    Returns counts per robot.
    """
    from blm.pipelines.datasets.foreign import check_source, write_source
    from blm.pipelines.windows.dataset import RobotDataset

    found = {}
    for source in config.sources:
        folder = context.out / "lerobot" / source.name
        write_source(folder, check_source(source, context.world.cameras, context.world.image_px))
        dataset = RobotDataset.open(folder)
        for episode in dataset.episodes:
            dataset.states(episode)
            dataset.chunks(episode, 1)
        found[source.name] = {"episodes": len(dataset.episodes), "frames": dataset.n_frames}
        context.progress(f"{source.name}: {len(dataset.episodes)} episodes of {source.root}")
    return found


def _episode_files(collect: Path, *, needed: bool) -> list[Path]:
    """The files of episodes, in order. UserError if one is damaged, or there is none though there must be."""
    files = episode_files(collect)
    for path in files:
        open_parquet(path).close()
    if needed and not files:
        raise UserError(f"{collect / 'episodes'} holds no episodes; run the collect stage first")
    return files


def _check_pictures(config: RenderConfig, world: WorldConfig) -> None:
    """UserError if a camera could come to stand where it sees nothing, or its pictures do not fit into a video."""
    for name in world.cameras:
        check_camera(CAMERAS[name], config.look.eye_jitter_m if config.draws_looks else 0.0)
    if config.storage == "video" and world.image_px % 2:
        raise UserError(f"world.image_px is {world.image_px}; videos (render.storage) need an even number")


# ----------------------------------------------------------------------------------------------------- assembly


def _assemble(config: RenderConfig, context: StageContext, parts: list[Path]) -> dict[str, Any]:
    """Write one dataset a robot from the parts, episodes ordered by cell, then seed, then variant."""
    order: dict[str, list[Place]] = {}
    for part in parts:
        for row, keys in enumerate(read_table(part, ["robot", "cell", "seed", "variant"]).to_pylist()):
            order.setdefault(keys["robot"], []).append((keys["cell"], keys["seed"], keys["variant"], part, row))
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
        size_mb = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / 2**20
        summary["datasets"][robot] = {
            "episodes": info["total_episodes"], "frames": info["total_frames"], "size_mb": round(size_mb, 2)
        }  # fmt: skip
        for cell, *_ in places:
            summary["cells"][cell] = summary["cells"].get(cell, 0) + 1
        context.progress(f"{robot}: {info['total_episodes']} episodes, {info['total_frames']} frames, {size_mb:.1f} MB")
    return summary


def _write_examples(folder: Path, places: list[Place], features: dict[str, Feature]) -> None:
    """`<cell>/<camera>.png` of each cell's first frame: something to show to a served model."""
    for cell, of_cell in groupby(places, key=lambda place: place[0]):
        *_, part, row = next(of_cell)
        first = from_row(read_table(part).slice(row, 1).to_pylist()[0], features)
        out = folder / parse_cell(cell).slug
        out.mkdir(parents=True, exist_ok=True)
        for name, encoded in first.pictures.items():
            Image.open(io.BytesIO(encoded[0])).save(out / f"{name.removeprefix(PICTURE_PREFIX)}.png")
        for name, segment in first.videos.items():
            Image.fromarray(first_frame(segment)).save(out / f"{name.removeprefix(PICTURE_PREFIX)}.png")


def _episodes_in_order(places: list[Place], features: dict[str, Feature]) -> Iterator[EpisodeFrames]:
    """Episodes one by one. Parts hold neighbouring seeds, so keeping the last one open reads each about once."""
    opened: tuple[Path, pa.Table] | None = None
    previous: tuple[str, int, int] | None = None
    for cell, seed, variant, part, row in places:
        if (cell, seed, variant) == previous:
            raise UserError(f"collect kept two episodes of {cell} seed {seed}; run the collect stage again")
        previous = (cell, seed, variant)
        if opened is None or opened[0] != part:
            opened = (part, read_table(part))
        yield from_row(opened[1].slice(row, 1).to_pylist()[0], features)
