"""Rollouts: a policy acts in the simulator until the task is done or time is up.

A group of episodes of one cell goes side by side: all look, one batched request brings all their chunks, each
executes the first actions of its chunk, and those still running look again. Nothing is rendered in between. A
group is always asked for as batches of the same make-up (a batch's size shows in the last digits of floating
point, and contacts magnify that), so outcomes depend on cell and seeds alone, not on how many actors share the
work.

Plain objects, no Ray.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import Episode
from blm.actors.sim.outcome import ERRORS, EpisodeResult, Failure, RolloutConfig, distances, why_time_was_up
from blm.actors.sim.policies import Policy, PolicyError, check_chunk, chunk_seed
from blm.actors.sim.tasks import instruction_for
from blm.actors.sim.watchdog import Watchdog
from blm.actors.sim.world import Cell, WorldConfig
from blm.model.types import ActionChunk, Observation

Float32 = npt.NDArray[np.float32]

SIMULATOR_LIMIT_S = 120.0
"""A look or a chunk's execution takes milliseconds, the first picture of a process seconds; this long is a hang."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """An episode that is over."""

    result: EpisodeResult
    episode: Episode | None
    """Its states and actions, if they were to be recorded."""


@dataclass(kw_only=True, slots=True)
class _Running:
    """An episode in the making. Lists hold one entry a control step; those of states begin with the reset."""

    env: CellEnv
    seed: int
    instruction: str
    limit: int
    observation: Observation | None = None
    chunk: Float32 | None = None
    chunks: int = 0
    success: bool = False
    failure: Failure | None = None
    detail: str = ""
    actions: list[Float32] = field(default_factory=list)
    positions: list[Float32] = field(default_factory=list)
    states: list[Float32] = field(default_factory=list)
    proprio: list[Float32] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"physics": 0.0, "render": 0.0, "wait": 0.0})

    @property
    def over(self) -> bool:
        return self.success or self.failure is not None

    def fail(self, failure: Failure, error: object) -> None:
        self.failure, self.detail = failure, f"{type(error).__name__}: {error}"


class RolloutRunner:
    """Runs groups of episodes of one cell after another, in simulators that it keeps."""

    def __init__(self, world: WorldConfig, config: RolloutConfig) -> None:
        self.world = world
        self.config = config
        self._watchdog = Watchdog()
        self._cell: Cell | None = None
        self._envs: list[CellEnv] = []

    def run(self, cell: Cell, seeds: Sequence[int], policy: Policy) -> list[Finished]:
        """The episodes of these scene seeds, in order. UserError if the cell cannot be simulated or drawn here."""
        envs = self._simulators(cell, len(seeds))
        group = [self._start(env, seed) for env, seed in zip(envs, seeds, strict=True)]
        running = [episode for episode in group if not episode.over]
        while running:
            self._look(running, policy)
            self._ask([episode for episode in running if not episode.over], policy)
            for episode in running:
                if not episode.over:
                    self._execute(episode)
            running = [episode for episode in running if not episode.over]
        broken = [episode.env for episode in group if episode.failure is Failure.SIMULATOR_ERROR]
        self._envs = [env for env in self._envs if env not in broken]
        return [self._finish(cell, episode, policy) for episode in group]

    def close(self) -> None:
        """Free the simulators."""
        for env in self._envs:
            env.close()
        self._envs = []

    def _simulators(self, cell: Cell, count: int) -> list[CellEnv]:
        """That many simulators of a cell. Those of another cell are freed first: a process works on one at a time."""
        if cell != self._cell:
            self.close()
            self._cell = cell
        world = self.world
        while len(self._envs) < count:
            self._envs.append(
                CellEnv(
                    cell, cameras=world.cameras, image_px=world.image_px, geometry=world.geometry, spawn=world.spawn
                )
            )
        return self._envs[:count]

    @contextmanager
    def _simulating(self, episode: _Running, kind: str) -> Iterator[None]:
        """Time and watch what the simulator does. Whatever it raises ends this episode, and no other."""
        started_s = time.perf_counter()
        try:
            with self._watchdog.guard(f"{episode.env.cell.name} seed {episode.seed}", SIMULATOR_LIMIT_S):
                yield
        except Exception as error:
            episode.fail(Failure.SIMULATOR_ERROR, error)
        finally:
            episode.seconds[kind] += time.perf_counter() - started_s

    def _start(self, env: CellEnv, seed: int) -> _Running:
        task = env.cell.task_data
        episode = _Running(
            env=env,
            seed=seed,
            instruction=instruction_for(task, seed, held_out=self.config.held_out),
            limit=self.config.max_steps or task.max_steps,
        )
        with self._simulating(episode, "physics"):
            env.reset(seed)
            self._note(episode)
        return episode

    def _note(self, episode: _Running) -> None:
        env = episode.env
        episode.positions.append(env.object_positions())
        if self.config.record:
            episode.states.append(env.state())
            episode.proprio.append(env.proprio())

    def _look(self, running: Sequence[_Running], policy: Policy) -> None:
        for episode in running:
            with self._simulating(episode, "render"):
                episode.observation = Observation(
                    images=episode.env.render() if policy.sees else {},
                    state=episode.env.proprio(),
                    instruction=episode.instruction,
                    embodiment=episode.env.cell.robot,
                )

    def _ask(self, running: Sequence[_Running], policy: Policy) -> None:
        """Give every running episode its next chunk, or a failure."""
        if not running:
            return
        started_s = time.perf_counter()
        try:
            chunks = self._infer(running, policy)
        except PolicyError as error:
            if len(running) > 1:  # find out whose observation it was
                for episode in running:
                    self._ask([episode], policy)
                return
            running[0].fail(Failure.POLICY_ERROR, error)
        else:
            for episode, chunk in zip(running, chunks, strict=True):
                self._take(episode, chunk)
        finally:
            waited_s = (time.perf_counter() - started_s) / len(running)
            for episode in running:
                episode.seconds["wait"] += waited_s

    @staticmethod
    def _infer(running: Sequence[_Running], policy: Policy) -> list[ActionChunk]:
        observations = [episode.observation for episode in running if episode.observation is not None]
        assert len(observations) == len(running)
        seeds = [chunk_seed(episode.env.cell.name, episode.seed, episode.chunks) for episode in running]
        chunks = policy.infer_batch(observations, seeds)
        if len(chunks) != len(running):
            raise PolicyError(f"{len(chunks)} chunks for {len(running)} observations")
        return chunks

    def _take(self, episode: _Running, chunk: ActionChunk) -> None:
        episode.chunks += 1
        try:
            episode.chunk = check_chunk(
                chunk, episode.env.embodiment, at_least=min(self.config.execute_steps, episode.limit)
            )
        except ValueError as error:
            episode.fail(Failure.BAD_ACTION, error)

    def _execute(self, episode: _Running) -> None:
        assert episode.chunk is not None
        with self._simulating(episode, "physics"):
            for action in episode.chunk[: self.config.execute_steps]:
                episode.success = episode.env.step(action)
                episode.actions.append(action)
                self._note(episode)
                if episode.success:
                    return
                if len(episode.actions) >= episode.limit:
                    closest_m, moved_m = distances(np.stack(episode.positions))
                    episode.failure = why_time_was_up(closest_m, moved_m, episode.env.cell.task_data.reach_m)
                    return

    def _finish(self, cell: Cell, episode: _Running, policy: Policy) -> Finished:
        closest_m, moved_m = distances(np.stack(episode.positions)) if episode.actions else (None, None)
        seconds = {f"{name}_s": round(value, 5) for name, value in episode.seconds.items()}
        result = EpisodeResult(
            cell=cell.name,
            seed=episode.seed,
            policy=policy.name,
            instruction=episode.instruction,
            success=episode.success,
            failure=episode.failure,
            error=episode.failure in ERRORS,
            detail=episode.detail,
            steps=len(episode.actions),
            chunks=episode.chunks,
            closest_m=closest_m,
            moved_m=moved_m,
            wall_s=round(sum(episode.seconds.values()), 5),
            **seconds,
        )
        keep = self.config.record and not result.error
        return Finished(result=result, episode=self._to_episode(cell, episode) if keep else None)

    def _to_episode(self, cell: Cell, episode: _Running) -> Episode:
        return Episode(
            robot=cell.robot,
            task=cell.task,
            seed=episode.seed,
            geometry=self.world.geometry,
            instruction=episode.instruction,
            control_hz=episode.env.embodiment.control_hz,
            states=np.stack(episode.states),
            proprio=np.stack(episode.proprio),
            actions=np.stack(episode.actions),
            object_positions=np.stack(episode.positions),
            success=episode.success,
        )
