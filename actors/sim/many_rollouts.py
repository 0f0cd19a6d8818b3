"""Rollouts of hundreds of episodes in step, on a GPU: as `runner.py`, with `many_cells.ManyCells` for simulators.

Same scenes by seed, same noise, same words, same execution of chunks, same reasons for failures; another backend, named
in every result. A group begins and ends together, and who is done early waits. Untested on CUDA for want of one: tests
run it with one copy on the CPU, where outcomes are the runner's.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from blm.actors.sim.env import CellEnv
from blm.actors.sim.execution import Execution
from blm.actors.sim.many_cells import Float32, ManyCells
from blm.actors.sim.outcome import Failure, Finished, RolloutConfig, RolloutItem, why_time_was_up
from blm.actors.sim.policies import Policy, PolicyError, check_chunk, chunk_seed
from blm.actors.sim.running import Running
from blm.actors.sim.scenes import Device
from blm.actors.sim.world import Cell, WorldConfig
from blm.model.errors import UserError
from blm.model.types import Observation

REQUEST = 64
"""Most observations in one request to the policy."""

Value = TypeVar("Value")


class ManyRollouts:
    """Episodes of one cell, in groups."""

    def __init__(
        self,
        cell: Cell,
        world: WorldConfig,
        config: RolloutConfig,
        policy: Policy,
        *,
        copies: int,
        device: Device = "cuda",
    ) -> None:
        """copies: episodes that run in step. UserError without CUDA, or for a robot that only the CPU simulates."""
        self.cell, self.config, self.policy = cell, config, policy
        self.backend = f"{device}, {world.geometry}"
        self._geometry = world.geometry
        self._cells = ManyCells(cell, copies=copies, geometry=world.geometry, spawn=world.spawn, device=device)
        cameras = world.cameras if policy.sees else ()
        self._eyes = CellEnv(cell, cameras=cameras, image_px=world.image_px, geometry=world.geometry, spawn=world.spawn)

    def run(self, seeds: Sequence[int]) -> list[Finished]:
        """The episodes of at most as many seeds as there are copies, in order. UserError if the policy cannot be
        asked at all.
        """
        group = [
            Running(item=RolloutItem(cell=self.cell, seed=seed), number=number, config=self.config)
            for number, seed in enumerate(seeds)
        ]
        self._timed(group, "physics", lambda: self._cells.reset(seeds))
        self._note(group)
        for one in group:
            one.execution = Execution(self.config.execution, one.proprio[0])
        while active := [one for one in group if not one.over]:
            asking = [one for one in active if one.execution is not None and one.execution.looks]
            for first in range(0, len(asking), REQUEST):
                self._ask(asking[first : first + REQUEST])
            if active := [one for one in active if not one.over]:
                self._timed(active, "physics", partial(self._step, active))
        finished = [one.finish(self.policy.name, self._geometry) for one in group]
        return [replace(one, result=replace(one.result, backend=self.backend)) for one in finished]

    def close(self) -> None:
        """Free the simulators."""
        self._cells.close()
        self._eyes.close()

    def _step(self, active: Sequence[Running]) -> None:
        actions = self._cells.proprio()  # who is done stays where it is
        for one in active:
            assert one.execution is not None, "begun before"
            one.actions.append(one.execution.next_action())
            actions[one.number] = one.actions[-1]
        success = self._cells.step(actions)
        self._note(active)
        for one in active:
            one.success = bool(success[one.number])
            if not one.success and len(one.actions) >= one.limit:
                one.failure = why_time_was_up(np.stack(one.positions), self.cell.task_data.reach_m)

    def _note(self, active: Sequence[Running]) -> None:
        positions, proprio = self._cells.object_positions(), self._cells.proprio()
        for one in active:
            one.positions.append(positions[one.number])
            one.proprio.append(proprio[one.number])

    def _ask(self, asking: Sequence[Running]) -> None:
        """Give every episode its next chunk, or a failure."""
        observations = self._timed(asking, "render", lambda: self._look(asking))
        seeds = [chunk_seed(self.cell.name, one.item.seed, one.chunks) for one in asking]
        prefixes = [one.execution.prefix() for one in asking if one.execution is not None]
        told = prefixes if any(prefix is not None for prefix in prefixes) else None
        try:
            chunks = self._timed(asking, "wait", lambda: self.policy.infer_batch(observations, seeds, told))
            if len(chunks) != len(asking):
                raise PolicyError(f"{len(chunks)} chunks for {len(asking)} observations")
        except UserError:
            raise
        except Exception as error:
            for one in asking:
                one.fail(Failure.POLICY_ERROR, error)
            return
        at_least = min(self.config.execution.execute_steps, asking[0].limit)
        for one, chunk in zip(asking, chunks, strict=True):
            assert one.execution is not None, "begun before"
            one.chunks += 1
            try:
                one.execution.take(check_chunk(chunk, self.cell.embodiment, at_least=at_least))
            except Exception as error:  # whatever a policy gives out is no reason to end others
                one.fail(Failure.BAD_ACTION, error)

    def _look(self, asking: Sequence[Running]) -> list[Observation]:
        states = self._cells.states() if self.policy.sees else None
        return [self._observation(one, None if states is None else states[one.number]) for one in asking]

    def _observation(self, one: Running, state: Float32 | None) -> Observation:
        if state is not None:
            self._eyes.set_state(state)
        return Observation(
            images=self._eyes.render() if state is not None else {},
            state=one.proprio[-1],
            instruction=one.instruction,
            embodiment=self.cell.robot,
        )

    @staticmethod
    def _timed(group: Sequence[Running], kind: str, work: Callable[[], Value]) -> Value:
        """Each of those who share some work has its share of the time."""
        began_s = time.perf_counter()
        try:
            return work()
        finally:
            for one in group:
                one.seconds[kind] += (time.perf_counter() - began_s) / len(group)
