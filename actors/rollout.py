"""A simulator process of the evaluation: runs groups of episodes, and afterwards draws videos of some."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blm.actors.sim.outcome import EpisodeResult, RolloutConfig
from blm.actors.sim.policies import Policy
from blm.actors.sim.world import Cell, WorldConfig

VIDEO_LIMIT_S = 300.0
"""Drawing a hundred frames takes a second or two; this long is a hang."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutItem:
    """Episodes that are run side by side."""

    cell: Cell
    """Robot and task."""
    seeds: tuple[int, ...]
    """Scene seeds, one an episode."""
    policy: str
    """Name of the policy that acts."""
    acting: Policy | None = None
    """It, if it is not one of the worker's own."""
    keep: Path | None = None
    """Folder for states and actions, one file an episode (`episode_file`); none of those that end in an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoItem:
    """One episode to be filmed."""

    cell: Cell
    """Robot and task."""
    episode: Path
    """The file it was kept in."""
    camera: str
    """Who films."""
    image_px: int
    """Width and height."""
    out: Path
    """The MP4 file to write."""


def episode_file(folder: Path, seed: int) -> Path:
    """Where the episode of a scene seed is kept."""
    return folder / f"seed-{seed:07d}.parquet"


class RolloutWorker:
    """Plain object; `ray.remote` turns it into an actor of a work pool."""

    def __init__(self, world: WorldConfig, config: RolloutConfig, policies: Mapping[str, Policy]) -> None:
        """policies: its own, by name. Simulators are made when first needed and kept while the cell is the same."""
        from blm.actors.sim.rollout import RolloutRunner
        from blm.actors.sim.watchdog import Watchdog

        self._world = world
        self._policies = policies
        self._runner = RolloutRunner(world, config)
        self._watchdog = Watchdog()

    def work(self, item: RolloutItem | VideoItem) -> list[EpisodeResult]:
        """Results of a group's episodes, in order of its seeds; nothing for a video."""
        if isinstance(item, VideoItem):
            with self._watchdog.guard(f"video {item.out.name}", VIDEO_LIMIT_S):
                self._film(item)
            return []
        return self._roll_out(item)

    def _roll_out(self, item: RolloutItem) -> list[EpisodeResult]:
        from blm.actors.sim.episode import write_episodes

        acting = item.acting if item.acting is not None else self._policies[item.policy]
        finished = self._runner.run(item.cell, item.seeds, acting)
        if item.keep is not None:
            for one in finished:
                if one.episode is not None:
                    write_episodes(episode_file(item.keep, one.result.seed), [one.episode])
        return [one.result for one in finished]

    def _film(self, item: VideoItem) -> None:
        from blm.actors.sim.env import CellEnv
        from blm.actors.sim.episode import read_episodes
        from blm.actors.sim.video import HOLD_S, frames, held, write_video

        (episode,) = read_episodes(item.episode)
        env = CellEnv(item.cell, cameras=(item.camera,), image_px=item.image_px, geometry=self._world.geometry)
        try:
            pictures = held(frames(env, episode, item.camera), round(HOLD_S * episode.control_hz))
            write_video(item.out, pictures, fps=episode.control_hz)
        finally:
            env.close()
