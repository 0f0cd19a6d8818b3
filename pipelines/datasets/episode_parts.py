"""Ray Data worker that draws clips of demonstrations to parts, beside what the simulator knows about them.

As with scenes, everything is drawn first; once all clips are known, one look at all of them decides what is asked.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blm.actors.sim.cameras import CAMERAS, camera_axes, project
from blm.actors.sim.world import WorldConfig, parse_cell
from blm.pipelines.datasets.clips import Clip, choose_clip
from blm.pipelines.datasets.episode_views import View
from blm.pipelines.datasets.parquet import write_table
from blm.pipelines.datasets.phases import phases
from blm.pipelines.datasets.scene_facts import GRASPED, SceneFacts, done
from blm.pipelines.datasets.scenes import in_split
from blm.pipelines.datasets.visible import MARKER_RGB, box_px

if TYPE_CHECKING:  # the simulator takes seconds to import, and only the workers need it
    from blm.actors.sim.env import CellEnv
    from blm.actors.sim.episode import Episode

TRIES = 3
"""Draws of a clip that an episode has not shown before."""
MUST_SHOW = ("still", "step", "partial")
"""Kinds of clips whose last moment must show the object. Others begin with a view of it."""
FINGERS_MATTER = ("approach", "grasp", "place", "release")
"""Steps at whose end only the fingers tell which step it was, so that the camera must see them open and close."""
LEAST_CLOSING_SEEN = 0.6
"""Share of the fingers' way across the picture, of what it is when seen squarely, from which it can be seen."""

EPISODE_PART_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("cell", pa.string()),
        ("seed", pa.int64()),
        ("view", pa.string()),
        ("moments", pa.list_(pa.int32())),
        ("cameras", pa.list_(pa.string())),
        ("control_hz", pa.int32()),
        ("images", pa.list_(pa.binary())),
        ("digest", pa.string()),
    ]
)


class EpisodeWorker:
    """Draws clips of one file of demonstrations to a part. Called by Ray Data; works as well without."""

    def __init__(self, config: Any, world: WorldConfig, seed: int) -> None:
        """`config` is the stage's CorporaConfig."""
        from blm.actors.renderer import Renderer

        self.config = config
        self.renderer = Renderer(world)
        self.seed = seed
        fixed = tuple(name for name in world.cameras if not getattr(CAMERAS[name], "mounted", False))
        self.video_cameras = fixed or world.cameras

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Item: `source` (a file of one cell's demonstrations), `split` and `part`."""
        from blm.actors.sim.episode import read_episodes

        episodes = [e for e in read_episodes(Path(item["source"])) if in_split(e.seed, item["split"])]
        rows = [row for episode in episodes for row in self._rows(episode)]
        write_table(Path(item["part"]), pa.Table.from_pylist(rows, schema=EPISODE_PART_SCHEMA))
        return {"part": item["part"], "clips": len(rows), "episodes": len(episodes)}

    def _rows(self, episode: "Episode") -> list[dict[str, Any]]:
        """The same whichever worker draws them, and whatever it has drawn before."""
        found = phases(episode)
        rows: list[dict[str, Any]] = []
        shown: set[tuple[Any, ...]] = set()
        for number in range(self.config.episode_questions if found else 0):
            rng = np.random.default_rng([self.seed, 30, *episode.cell.encode(), episode.seed, number])
            for _ in range(TRIES):
                clip = choose_clip(episode.task, found, rng) if episode.success else _whole_failure(episode)
                camera = str(rng.choice(self.video_cameras))
                if clip is None:
                    continue
                pictured = (clip.moments(self.config.video_frames), clip.mishap, camera if clip.video else "")
                if pictured in shown:
                    continue
                shown.add(pictured)
                row = self._row(episode, clip, camera)
                if row is not None:
                    rows.append(row | {"id": f"{parse_cell(episode.cell).slug}-{episode.seed:07d}-{number:02d}"})
                    break
        return rows

    def _row(self, episode: "Episode", clip: Clip, camera: str) -> dict[str, Any] | None:
        """One clip, drawn; None for a mishap that was none, and where no picture shows what it is about."""
        from blm.actors.mishaps import faulty_actions, replay
        from blm.actors.renderer import encode_picture

        env = self.renderer.env(parse_cell(episode.cell))
        states = episode.states
        if clip.mishap and episode.success:
            run = replay(env, episode, faulty_actions(episode, clip.mishap, clip.fault_step, clip.fault_side))
            if run.success:
                return None
            states = run.states
        moments = clip.moments(self.config.video_frames)
        if clip.video and clip.shown in FINGERS_MATTER and episode.task in GRASPED and not clip.mishap:
            env.set_state(states[clip.end])
            camera = max(self.video_cameras, key=lambda name: _closing_seen(env, name))
            if _closing_seen(env, camera) < LEAST_CLOSING_SEEN:
                return None
        cameras = (camera,) if clip.video else self.renderer.world.cameras
        images = []
        for moment in moments:
            env.set_state(states[moment])
            pictures = env.render()
            images += [encode_picture(pictures[name], self.config.image_format) for name in cameras]
        view = _view(env, episode, clip, {name: pictures[name] for name in cameras})
        if clip.mishap and done(view.facts) is not False:
            return None
        if clip.kind in MUST_SHOW and not view.sees_object:
            return None
        return {
            "cell": episode.cell,
            "seed": episode.seed,
            "view": view.to_json(),
            "moments": list(moments),
            "cameras": list(cameras),
            "control_hz": episode.control_hz,
            "images": images,
            "digest": hashlib.sha256(b"".join(images)).hexdigest(),
        }


def _whole_failure(episode: "Episode") -> Clip:
    """A rollout that is known to have failed is shown as a whole."""
    return Clip(kind="mishap", start=0, end=len(episode.actions), mishap="failed")


def _view(env: "CellEnv", episode: "Episode", clip: Clip, pictures: dict[str, npt.NDArray[np.uint8]]) -> View:
    """What is known of the state that `env` is in, drawn as `pictures`."""
    from blm.actors.renderer import paint_object

    own = paint_object(env, MARKER_RGB)
    marked = env.render()
    paint_object(env, own)
    positions = env.object_positions()
    facts = SceneFacts(
        task=episode.task,
        object_positions=tuple(float(value) for value in positions),
        gripper=float(env.proprio()[-1]),
        success=env.success(),
    )
    return View(
        robot=episode.robot,
        clip=clip,
        facts=facts,
        points_px=tuple(_points_px(positions, name, env.image_px) for name in pictures),
        boxes_px=tuple(box_px(picture, marked[name]) for name, picture in pictures.items()),
        side_px=env.image_px,
    )


def _closing_seen(env: "CellEnv", camera: str) -> float:
    """How squarely a camera sees the fingers' way: 1 from the side, 0 along it."""
    spec = CAMERAS[camera]
    if getattr(spec, "mounted", False):
        return 1.0
    return float(np.linalg.norm(np.cross(camera_axes(spec)[0], env.tool_pose()[:3, 1])))


def _points_px(positions_m: npt.NDArray[np.float32], camera: str, image_px: int) -> tuple[float, ...] | None:
    spec = CAMERAS[camera]
    if getattr(spec, "mounted", False):
        return None
    pixels, _ = project(positions_m.reshape(3, 3), spec, image_px)
    return tuple(round(float(value), 2) for value in pixels.ravel())
