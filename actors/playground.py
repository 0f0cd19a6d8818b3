"""Where people watch the served model at work: episodes in the simulator, one a visitor, driven over the network.

Plain asyncio objects; `pipelines/playground.py` makes a Ray Serve deployment of `Playground`. A visitor talks by
commands and gets events, both plain maps, fetched by `poll`, so that any kind of call will do in between:

    commands  {"do": "start", "robot", "task", "seed", "instruction"}  {"do": "instruct", "instruction"}
              {"do": "stop"}  {"do": "pause"}  {"do": "resume"}  {"do": "picture"}
    events    {"event": "hello" | "begun" | "frame" | "look" | "over" | "paused" | "picture" | "trouble", ...}

The simulator has one thread, and every visitor's simulator lives in it; while one waits for the model the others move.
Control steps are shown at the pace they would have on a robot, or slower where the machine is.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from blm.actors.playground_visit import Visit
from blm.actors.sim.tasks import TASKS
from blm.actors.sim.world import Geometry, seed_range
from blm.model.description import PolicyDescription
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation

Event = dict[str, Any]
Result = TypeVar("Result")

ABSENT_S = 20.0
"""A visitor who has not asked for news for so long has gone."""


class Brain(Protocol):
    """The served model as its client sees it; every visitor has one."""

    @property
    def description(self) -> PolicyDescription:
        """What it serves."""

    def infer_timed(
        self, observations: Sequence[Observation], seeds: Sequence[int]
    ) -> Sequence[tuple[ActionChunk, Mapping[str, float]]]:
        """A chunk for each observation, with the server's split of its time in ms."""

    def close(self) -> None:
        """Hang up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaygroundOptions:
    """How episodes are shown."""

    visitors: int = 4
    """Most people at a time."""
    display_px: int = 288
    """Side of the pictures for people."""
    steps_a_frame: int = 2
    """Control steps from one of them to the next: 2 makes ten pictures a second."""
    speed: float = 1.0
    """Times the pace that a robot would have, as far as the machine can; 0: as fast as it can."""
    geometry: Geometry = "lite"
    """Geometry of the robots, as in training."""
    trained: tuple[str, ...] = ()
    """Cells (`robot/Task`) that the model was trained on; the others are offered too, and marked."""

    def __post_init__(self) -> None:
        if self.speed < 0:
            raise UserError(f"speed is {self.speed}; give 0 or more")
        if not (1 <= self.visitors <= 64 and 64 <= self.display_px <= 1024 and 1 <= self.steps_a_frame <= 20):
            raise UserError("give visitors from 1 to 64, display_px from 64 to 1024 and steps_a_frame from 1 to 20")


class Playground:
    """All visitors."""

    def __init__(self, connect: Callable[[str], Brain], options: PlaygroundOptions) -> None:
        """connect: opens a connection to the model with a visitor's key, which may be empty; UserError if it cannot."""
        self._connect, self._options = connect, options
        self._simulator = ThreadPoolExecutor(max_workers=1, thread_name_prefix="simulator")
        self._visits: dict[str, Visit] = {}
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self, key: str = "") -> tuple[str, list[Event]]:
        """(the visitor's name, first events); an empty name and the trouble where there is no place or no model."""
        if len(self._visits) >= self._options.visitors:
            most = self._options.visitors
            return "", [_trouble(f"all {most} places are taken; close another playground, or try again later")]
        try:
            brain = await asyncio.to_thread(self._connect, key)
        except Exception as error:
            return "", [_trouble(f"the model cannot be reached: {error}")]
        name = secrets.token_urlsafe(16)
        visit = Visit(brain, self._options, self._simulate)
        self._visits[name] = visit
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep())
        return name, [self._hello(brain.description)]

    async def tell(self, visitor: str, command: Event) -> None:
        """A command. What is wrong with it becomes an event; one of a visitor who is not here is ignored."""
        visit = self._visits.get(visitor)
        if visit is None:
            return
        try:
            await visit.obey(command)
        except UserError as error:
            visit.emit(_trouble(str(error)))

    async def poll(self, visitor: str, wait_s: float = 5.0) -> list[Event] | None:
        """What happened since the last call; waits for news, at most so long. None for a visitor who is not here."""
        visit = self._visits.get(visitor)
        return None if visit is None else await visit.news(wait_s)

    async def leave(self, visitor: str) -> None:
        """End a visit."""
        visit = self._visits.pop(visitor, None)
        if visit is not None:
            await visit.end()

    async def close(self) -> None:
        """End all visits."""
        for visitor in list(self._visits):
            await self.leave(visitor)
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._simulator.shutdown(wait=True)

    @property
    def visitors(self) -> int:
        """People who are here."""
        return len(self._visits)

    async def _simulate(self, work: Callable[[], Result]) -> Result:
        """Do something in the simulator's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._simulator, work)

    async def _sweep(self) -> None:
        """End the visits of those who have gone without a word."""
        while self._visits:
            await asyncio.sleep(ABSENT_S / 4)
            for visitor, visit in list(self._visits.items()):
                if time.monotonic() - visit.asked_s > ABSENT_S:
                    await self.leave(visitor)

    def _hello(self, description: PolicyDescription) -> Event:
        """What a visitor may choose from."""
        trained = self._options.trained
        return {
            "event": "hello",
            "model": {"name": description.name, "identity": description.identity},
            "cameras": list(description.cameras),
            "image_px": description.image_px,
            "execute_steps": description.execute_steps,
            "chunk": description.chunk,
            "first_seed": seed_range("evaluate").start,
            "robots": [
                {"name": layout.name, "control_hz": layout.control_hz} for layout in description.layouts
            ],
            "tasks": [
                {
                    "name": task.name,
                    "instructions": list(task.instructions),
                    "held_out": list(task.held_out),
                    "max_steps": task.max_steps,
                    "object": task.object_name,
                    "goal": task.goal_name,
                    "trained": [cell.partition("/")[0] for cell in trained if cell.endswith(f"/{task.name}")],
                }
                for task in TASKS.values()
            ],
        }  # fmt: skip


def _trouble(message: str) -> Event:
    return {"event": "trouble", "message": message}
