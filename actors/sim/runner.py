"""Rollouts: a policy acts in the simulator until the task is done or time is up, many episodes side by side.

A runner has slots, each for one episode. Rounds follow one another: everyone looks, one batched request brings all
answers, everyone executes until the next look. Nothing is rendered in between. An episode that is over leaves its slot
at once, for the next one to begin in the next round, so the batch stays full. Outcomes depend on cell, seed and policy
alone, as long as a policy's answer does not depend on what else is in its batch: noise follows from the cell, the seed
and the number of the look, and a reset simulator has no past.

    runner = RolloutRunner(world, RolloutConfig(), policy, slots=10)
    while items or runner.running:
        while items and runner.free:
            runner.add(items.pop())
        for finished in runner.advance(): ...

Plain objects, no Ray.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from blm.actors.sim.env import CellEnv
from blm.actors.sim.outcome import Failure, Finished, RolloutConfig, RolloutItem
from blm.actors.sim.policies import Policy, PolicyError, PolicyTimeoutError, check_chunk, chunk_seed
from blm.actors.sim.running import Running
from blm.actors.sim.watchdog import Watchdog
from blm.actors.sim.world import Cell, WorldConfig
from blm.model.errors import UserError
from blm.model.types import ActionChunk

SIMULATOR_LIMIT_S = 120.0
"""A look or a chunk's execution takes milliseconds, the first picture of a process seconds; this long is a hang."""


@dataclass(slots=True, eq=False)
class _Slot:
    env: CellEnv | None = None
    episode: Running | None = None


class RolloutRunner:
    """Runs episodes of any cells in simulators that it keeps."""

    def __init__(self, world: WorldConfig, config: RolloutConfig, policy: Policy, slots: int) -> None:
        """slots: episodes that are run side by side. A simulator is made when first needed, one a slot at most."""
        assert slots >= 1, f"a runner needs slots, got {slots}"
        self.world = world
        self.config = config
        self.policy = policy
        self._slots = [_Slot() for _ in range(slots)]
        self._watchdog = Watchdog()
        self._added = 0

    @property
    def free(self) -> int:
        """Slots without an episode."""
        return sum(slot.episode is None for slot in self._slots)

    @property
    def running(self) -> int:
        """Slots with one."""
        return len(self._slots) - self.free

    def add(self, item: RolloutItem) -> None:
        """Begin an episode with the next round, in a slot that has a simulator of its cell, if there is one free."""
        assert self.free, "no slot is free; advance until one is"
        free = [slot for slot in self._slots if slot.episode is None]
        slot = min(free, key=lambda slot: 1 if slot.env is None else 2 * (slot.env.cell != item.cell))
        slot.episode = Running(item=item, number=self._added, config=self.config)
        self._added += 1

    def advance(self) -> list[Finished]:
        """One round. Returns the episodes that ended in it.

        UserError if a cell cannot be simulated or drawn here, or if the policy cannot be asked at all.
        """
        return [finished for _, finished in self._round()]

    def run(self, items: Sequence[RolloutItem]) -> list[Finished]:
        """All of these episodes, in order. Raises what `advance` raises. Nothing else may be running."""
        assert not self.running, f"{self.running} episodes are running"
        waiting, finished = deque(items), dict[int, Finished]()
        while waiting or self.running:
            while waiting and self.free:
                self.add(waiting.popleft())
            finished |= self._round()
        return [finished[number] for number in sorted(finished)]

    def change_policy(self, policy: Policy) -> None:
        """Let another one act, in the same simulators if they have what it sees by. Nothing may be running."""
        assert not self.running, f"{self.running} episodes are running"
        if policy.sees != self.policy.sees:
            self.close()
        self.policy = policy

    def close(self) -> None:
        """Free the simulators. Episodes that are running are dropped."""
        for slot in self._slots:
            if slot.env is not None:
                slot.env.close()
        self._slots = [_Slot() for _ in self._slots]

    # --------------------------------------------------------------------------------------------------------- a round

    def _round(self) -> list[tuple[int, Finished]]:
        """One round: the numbers of episodes that ended, and these."""
        for slot in self._slots:
            if slot.episode is not None and slot.episode.execution is None:
                self._begin(slot, slot.episode)
        for episode in self._active():
            with self._simulating(episode, "render"):
                episode.observe(pictures=self.policy.sees)
        self._ask(self._active())
        for episode in self._active():
            with self._simulating(episode, "physics"):
                episode.execute()
        over = [(slot, slot.episode) for slot in self._slots if slot.episode is not None and slot.episode.over]
        return [self._leave(slot, episode) for slot, episode in over]

    def _active(self) -> list[Running]:
        return [slot.episode for slot in self._slots if slot.episode is not None and not slot.episode.over]

    def _begin(self, slot: _Slot, episode: Running) -> None:
        try:
            with self._watched(episode, "physics"):
                env = self._simulator(slot, episode.item.cell)
        except UserError:
            raise
        except Exception as error:
            episode.fail(Failure.SIMULATOR_ERROR, error)
        else:
            with self._simulating(episode, "physics"):
                episode.begin(env)

    def _simulator(self, slot: _Slot, cell: Cell) -> CellEnv:
        """A slot's simulator of that cell; one of another cell is freed first."""
        if slot.env is not None and slot.env.cell != cell:
            slot.env.close()
            slot.env = None
        if slot.env is None:
            world = self.world
            slot.env = CellEnv(
                cell,
                cameras=world.cameras if self.policy.sees else (),
                image_px=world.image_px,
                geometry=world.geometry,
                spawn=world.spawn,
            )
        return slot.env

    def _leave(self, slot: _Slot, episode: Running) -> tuple[int, Finished]:
        slot.episode = None
        if episode.failure is Failure.SIMULATOR_ERROR:
            slot.env = None  # what it would do next, nobody knows; not even whether it can be closed
        return episode.number, episode.finish(self.policy.name, self.world.geometry)

    @contextmanager
    def _watched(self, episode: Running, kind: str) -> Iterator[None]:
        """Time what the simulator does for an episode, and end the process if it hangs."""
        started_s = time.perf_counter()
        try:
            with self._watchdog.guard(f"{episode.item.cell.name} seed {episode.item.seed}", SIMULATOR_LIMIT_S):
                yield
        finally:
            episode.seconds[kind] += time.perf_counter() - started_s

    @contextmanager
    def _simulating(self, episode: Running, kind: str) -> Iterator[None]:
        """Watch what the simulator does. Whatever it raises ends this episode, and no other."""
        try:
            with self._watched(episode, kind):
                yield
        except Exception as error:
            episode.fail(Failure.SIMULATOR_ERROR, error)

    # ------------------------------------------------------------------------------------------------------ the policy

    def _ask(self, asking: Sequence[Running]) -> None:
        """Give every episode its next chunk, or a failure."""
        if not asking:
            return
        started_s = time.perf_counter()
        chunks: Sequence[ActionChunk] = []
        failed: Exception | None = None
        try:
            chunks = self._infer(asking)
        except UserError:
            raise
        except Exception as error:
            failed = error
        waited_s = (time.perf_counter() - started_s) / len(asking)
        for episode in asking:
            episode.seconds["wait"] += waited_s
        if failed is None:
            for episode, chunk in zip(asking, chunks, strict=True):
                self._take(episode, chunk)
        elif len(asking) > 1 and not isinstance(failed, PolicyTimeoutError):
            for episode in asking:  # find out whose observation it was
                self._ask([episode])
        else:
            for episode in asking:
                episode.fail(Failure.POLICY_ERROR, failed)

    def _infer(self, asking: Sequence[Running]) -> list[ActionChunk]:
        observations = [episode.observation for episode in asking if episode.observation is not None]
        seeds = [chunk_seed(one.item.cell.name, one.item.seed, one.chunks) for one in asking]
        prefixes = [one.execution.prefix() for one in asking if one.execution is not None]
        if any(prefix is not None for prefix in prefixes):
            chunks = self.policy.infer_batch(observations, seeds, prefixes)
        else:
            chunks = self.policy.infer_batch(observations, seeds)
        if len(chunks) != len(asking):
            raise PolicyError(f"{len(chunks)} chunks for {len(asking)} observations")
        return chunks

    def _take(self, episode: Running, chunk: ActionChunk) -> None:
        assert episode.execution is not None, "begun before"
        episode.chunks += 1
        at_least = min(self.config.execution.execute_steps, episode.limit)
        try:
            episode.execution.take(check_chunk(chunk, episode.item.cell.embodiment, at_least=at_least))
        except Exception as error:  # whatever a policy gives out is no reason to end others
            episode.fail(Failure.BAD_ACTION, error)
