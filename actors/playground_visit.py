"""One visitor of the playground: what was asked for, the episode that runs, and the news that wait to be fetched."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from blm.actors.playground_episode import LiveEpisode, seen
from blm.actors.sim.tasks import get_task, instruction_for
from blm.actors.sim.world import Cell, parse_cell
from blm.model.errors import UserError

if TYPE_CHECKING:
    from blm.actors.playground import Brain, Event, PlaygroundOptions

LONGEST_INSTRUCTION = 300
MOST_WAITING = 200
"""Events that wait for a visitor who does not fetch them; the oldest go."""
Simulate = Callable[[Callable[[], Any]], Awaitable[Any]]


class Visit:
    """Belongs to one event loop. `simulate` runs what touches the simulator, in its own thread."""

    def __init__(self, brain: "Brain", options: "PlaygroundOptions", simulate: Simulate) -> None:
        self._brain, self._options, self._simulate = brain, options, simulate
        self.asked_s = time.monotonic()
        """When the visitor last asked for news."""
        self._events: list[Event] = []
        self._came = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._episode: LiveEpisode | None = None
        self._instruction = ""
        self._going = asyncio.Event()

    # --------------------------------------------------------------------------------------------------------- talking

    def emit(self, event: "Event") -> None:
        """News. A picture of the scene that nobody has fetched makes way for the next."""
        if event["event"] == "frame" and self._events and self._events[-1]["event"] == "frame":
            self._events.pop()
        self._events.append(event)
        del self._events[:-MOST_WAITING]
        self._came.set()

    async def news(self, wait_s: float) -> list["Event"]:
        """What happened since the last call."""
        self.asked_s = time.monotonic()
        if not self._events:
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), wait_s)
            except TimeoutError:
                return []
        events, self._events = self._events, []
        self.asked_s = time.monotonic()
        return events

    async def obey(self, command: "Event") -> None:
        """Do as told. UserError for what cannot be done."""
        todo = {
            "start": self._start, "instruct": self._instruct, "stop": self._stop, "pause": self._pause,
            "resume": self._resume, "picture": self._picture,
        }.get(command.get("do", ""))  # fmt: skip
        if todo is None:
            raise UserError("unknown command")
        await todo(command)

    async def end(self) -> None:
        """Stop whatever runs, and hang up."""
        await self._halt()
        await asyncio.to_thread(self._brain.close)

    # ---------------------------------------------------------------------------------------------------- commands

    async def _start(self, command: "Event") -> None:
        cell = parse_cell(f"{command.get('robot')}/{command.get('task')}")
        self._brain.description.layout(cell.robot)
        seed = command.get("seed")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise UserError("a scene's seed is a whole number from 0 to 2147483647")
        text = command.get("instruction") or instruction_for(get_task(cell.task), seed)
        await self._halt()
        self._instruction = _words(text)
        self._going.set()
        self._running = asyncio.create_task(self._run(cell.name, seed))

    async def _instruct(self, command: "Event") -> None:
        self._instruction = _words(command.get("instruction"))

    async def _stop(self, command: "Event") -> None:
        if self._running is not None and not self._running.done():
            await self._halt()
            self.emit({"event": "over", "outcome": "stopped"})

    async def _pause(self, command: "Event") -> None:
        self._going.clear()
        self.emit({"event": "paused", "paused": True})

    async def _resume(self, command: "Event") -> None:
        self._going.set()
        self.emit({"event": "paused", "paused": False})

    async def _picture(self, command: "Event") -> None:
        """The present scene as the policy sees it, to be talked about."""
        if self._episode is None:
            raise UserError("there is no picture yet; run a task first")
        self.emit({"event": "picture", "pictures": await self._simulate(self._episode.look)})

    # ------------------------------------------------------------------------------------------------- an episode

    async def _halt(self) -> None:
        """End the episode that runs, and free its simulator."""
        running, self._running = self._running, None
        if running is not None and not running.done():
            running.cancel()
            await asyncio.wait([running])
        await self._simulate(self._free)

    async def _run(self, cell: str, seed: int) -> None:
        """An episode to its end; the simulator stays, for its last picture to be talked about."""
        try:
            episode = await self._simulate(functools.partial(self._make, parse_cell(cell), seed))
            hz = episode.cell.embodiment.control_hz
            self.emit(
                {
                    "event": "begun",
                    "robot": episode.cell.robot,
                    "task": episode.cell.task,
                    "seed": seed,
                    "instruction": self._instruction,
                    "limit": episode.limit,
                    "control_hz": hz,
                }
            )
            self._show(episode, await self._simulate(episode.watch))
            speed = self._options.speed
            await self._act(episode, 1.0 / (hz * speed) if speed else 0.0)
            self.emit(
                {"event": "over", "outcome": episode.outcome, "steps": episode.steps, "seconds": episode.steps / hz}
            )
        except asyncio.CancelledError:
            raise
        except Exception as error:  # whatever fails, the visitor is told, and may start again
            self.emit({"event": "over", "outcome": "error", "detail": f"{error}" or type(error).__name__})

    def _make(self, cell: Cell, seed: int) -> LiveEpisode:
        """In the simulator's thread, as `_free`: one after the other, even if nobody waits for the first any more."""
        options = self._options
        self._episode = LiveEpisode(
            cell,
            seed,
            description=self._brain.description,
            geometry=options.geometry,
            display_px=options.display_px,
        )
        return self._episode

    def _free(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None:
            episode.close()

    async def _act(self, episode: LiveEpisode, period_s: float) -> None:
        due_s = time.monotonic()
        while not episode.over:
            await self._going.wait()
            if episode.looks:
                await self._look(episode)
                due_s = time.monotonic()
            over = await self._simulate(episode.step)
            if over or episode.steps % self._options.steps_a_frame == 0:
                self._show(episode, await self._simulate(episode.watch))
            due_s = max(due_s + period_s, time.monotonic())
            await asyncio.sleep(max(due_s - time.monotonic(), 0.0))

    async def _look(self, episode: LiveEpisode) -> None:
        """Show the model the scene, and take its chunk."""
        said = self._instruction
        observation = await self._simulate(functools.partial(episode.observe, said))
        began_s = time.perf_counter()
        ((chunk, timing),) = await asyncio.to_thread(self._brain.infer_timed, [observation], [episode.noise_seed])
        round_trip_ms = 1e3 * (time.perf_counter() - began_s)
        step, number = episode.steps, episode.chunks
        episode.take(chunk)
        self.emit(
            {
                "event": "look",
                "look": number,
                "step": step,
                "instruction": said,
                "round_trip_ms": round(round_trip_ms, 2),
                "timing": {name: round(float(value), 2) for name, value in timing.items()},
                "pictures": await asyncio.to_thread(seen, observation.images, "PNG"),
            }
        )

    def _show(self, episode: LiveEpisode, pictures: list[tuple[str, bytes]]) -> None:
        self.emit({"event": "frame", "step": episode.steps, "pictures": pictures})


def _words(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise UserError("say what is to be done, in words")
    if len(text) > LONGEST_INSTRUCTION:
        raise UserError(f"an instruction of {len(text)} letters; say it in at most {LONGEST_INSTRUCTION}")
    return text.strip()
