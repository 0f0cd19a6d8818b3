"""A simulator process of the evaluation: runs episodes side by side, and afterwards draws videos of some."""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blm.actors.leases import Progress
from blm.actors.sim.outcome import EpisodeResult, EpisodeTiming, RolloutConfig, RolloutItem
from blm.actors.sim.policies import Policy
from blm.actors.sim.world import Cell, WorldConfig
from blm.cluster import depot
from blm.model.types import ActionChunk, Observation, Prefixes

if TYPE_CHECKING:  # the driver, which has no simulator, imports this
    from blm.actors.sim.runner import RolloutRunner

VIDEO_LIMIT_S = 300.0
"""Drawing a hundred frames takes a second or two; this long is a hang."""
COME_BACK_S = 2.0
"""A worker comes back to the driver after this time even with nothing finished: silence means that it hangs."""

Ended = tuple[EpisodeResult, EpisodeTiming]


@dataclass(frozen=True, kw_only=True, slots=True)
class Acting:
    """Who acts, as simulator processes are told."""

    name: str
    """Its name in results."""
    make_policy: Callable[[], Policy]
    """Makes it in the process that is to ask it."""


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


class MeteredPolicy:
    """A policy under a name, and how long its answers took."""

    def __init__(self, name: str, policy: Policy) -> None:
        self.name = name
        self.sees = policy.sees
        self.looks = 0
        """Answers so far."""
        self.wait_s = 0.0
        """What they took."""
        self._policy = policy

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """The policy's answer."""
        began_s = time.perf_counter()
        try:
            if prefixes is None:
                return self._policy.infer_batch(observations, seeds)
            return self._policy.infer_batch(observations, seeds, prefixes)
        finally:
            self.looks += len(seeds)
            self.wait_s += time.perf_counter() - began_s


class RolloutWorker:
    """Plain object; `ray.remote` turns it into an actor of a `LeasePool`, and for videos of a `WorkPool`."""

    def __init__(self, world: WorldConfig, config: RolloutConfig, slots: int) -> None:
        """slots: episodes side by side. Simulators are made when first needed and kept while their cell is the same."""
        from blm.actors.sim.watchdog import Watchdog

        self._world, self._config, self._slots = world, config, slots
        self._runner: RolloutRunner | None = None
        self._policy: MeteredPolicy | None = None
        self._backlog: deque[RolloutItem] = deque()
        self._aboard: dict[tuple[Cell, int], RolloutItem] = {}
        self._watchdog = Watchdog()

    def begin(self, acting: Acting) -> int:
        """Forget what was in hand, and work with another policy. Returns the process's id."""
        from blm.actors.sim.runner import RolloutRunner

        self._policy = MeteredPolicy(acting.name, acting.make_policy())
        if self._runner is not None and not self._runner.running:
            self._runner.change_policy(self._policy)
        else:
            if self._runner is not None:
                self._runner.close()
            self._runner = RolloutRunner(self._world, self._config, self._policy, self._slots)
        self._backlog.clear()
        self._aboard.clear()
        return os.getpid()

    def advance(self, items: Sequence[RolloutItem]) -> Progress[RolloutItem, Ended]:
        """Go on with what is in hand and with `items`, until some of it is done or `COME_BACK_S` have passed."""
        runner, policy = self._runner, self._policy
        assert runner is not None, "advance before begin"
        assert policy is not None
        self._backlog.extend(items)
        began_s, looks, wait_s = time.perf_counter(), policy.looks, policy.wait_s
        done: list[tuple[RolloutItem, Ended]] = []
        while not done and (self._backlog or self._aboard) and time.perf_counter() - began_s < COME_BACK_S:
            self._board(runner)
            done = self._round(runner)
        wait_s = policy.wait_s - wait_s
        took_s = time.perf_counter() - began_s
        return Progress(done=done, looks=policy.looks - looks, work_s=took_s - wait_s, wait_s=wait_s)

    def _board(self, runner: "RolloutRunner") -> None:
        """Fill the slots that are free."""
        for _ in range(min(runner.free, len(self._backlog))):
            item = self._backlog.popleft()
            self._aboard[item.cell, item.seed] = item
            runner.add(item)

    def _round(self, runner: "RolloutRunner") -> list[tuple[RolloutItem, Ended]]:
        """One look of everybody aboard. What ends is kept, if it is to be, before anybody hears of it."""
        from blm.actors.sim.episode import write_episodes

        done = []
        by_name = {(cell.name, seed): (cell, seed) for cell, seed in self._aboard}
        for one in runner.advance():
            item = self._aboard.pop(by_name[one.result.cell, one.result.seed])
            if item.keep is not None and one.episode is not None:
                path = depot.place(episode_file(item.keep, item.seed))
                write_episodes(path, [one.episode])
                depot.keep(path)
            done.append((item, (one.result, one.timing)))
        return done

    def work(self, item: VideoItem) -> None:
        """Draw a video."""
        from blm.actors.sim.env import CellEnv
        from blm.actors.sim.episode import read_episodes
        from blm.actors.sim.video import HOLD_S, frames, held, write_video

        with self._watchdog.guard(f"video {item.out.name}", VIDEO_LIMIT_S):
            (episode,) = read_episodes(depot.here(item.episode))
            env = CellEnv(item.cell, cameras=(item.camera,), image_px=item.image_px, geometry=self._world.geometry)
            try:
                pictures = held(frames(env, episode, item.camera), round(HOLD_S * episode.control_hz))
                out = depot.place(item.out)
                write_video(out, pictures, fps=episode.control_hz)
                depot.keep(out)
            finally:
                env.close()
