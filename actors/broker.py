"""Requests of many to a policy that computes in processes of its own: merged, watched, and answered one way or another.

Requests wait in one queue for the next free process. `merge` of their observations may be computed in one pass; a
pass with room left waits `wait_s` for more, counted from its oldest request, and no longer. A process that does not
answer within `limit_s`, or dies, is ended and made anew, and the run goes on.

What went wrong with several requests in one pass is tried again with each of them alone, so that nobody suffers for
the company it was in: what an episode gets depends on its own requests.

Plain objects, asyncio alone; `blm.actors.policy` runs them in Ray.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from blm.actors.sim.policies import PolicyError, PolicyTimeoutError
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes, join_prefixes

RESTARTS = 3
"""How often a process may die over one request before the request is refused."""
SILENCES = 20
"""Time-outs with no answer in between, of any process, after which the policy is taken to answer nobody."""


class EngineDied(Exception):  # noqa: N818 - what happened, not what somebody did wrong
    """The process that computed is gone."""


class Engine(Protocol):
    """A process that has the policy."""

    async def infer(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None
    ) -> list[ActionChunk]:
        """What the policy answers, or raises; EngineDied if the process ended instead."""

    async def renew(self) -> None:
        """End the process, which may hang or be dead, and make another. Raises what loading raises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What a broker has done so far."""

    answers: int = 0
    """Observations answered."""
    passes: int = 0
    """Passes they took."""
    busy_s: float = 0.0
    """Time of all processes in passes."""
    restarts: int = 0
    """Processes that hung or died."""


@dataclass(slots=True, eq=False)
class _Request:
    observations: Sequence[Observation]
    seeds: Sequence[int]
    prefixes: Prefixes | None
    answer: "asyncio.Future[list[ActionChunk]]"
    came_s: float
    deaths: int = 0


class Broker:
    """The queue before some engines."""

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        merge: int = 0,
        wait_s: float = 0.0,
        limit_s: float = 60.0,
        silences: int = SILENCES,
    ) -> None:
        """merge: most observations of several requests in one pass; 0: each request by itself."""
        self._engines, self._merge, self._wait_s, self._limit_s = list(engines), merge, wait_s, limit_s
        self._most_silences = silences
        self._waiting: deque[_Request] = deque()
        self._arrived = asyncio.Event()
        self._serving: list[asyncio.Task[None]] = []
        self._given_up: UserError | None = None
        self._silences = 0
        self._answers, self._passes, self._busy_s, self._restarts = 0, 0, 0.0, 0

    @property
    def load(self) -> Load:
        """What was done so far."""
        return Load(answers=self._answers, passes=self._passes, busy_s=self._busy_s, restarts=self._restarts)

    async def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """A chunk for each observation, in order.

        Raises what the policy raises; PolicyTimeoutError for a single observation that was not answered in time,
        PolicyError for several: one of them may be the reason. UserError if nothing will be answered any more.
        """
        if self._given_up is not None:
            raise self._given_up
        if not self._serving:
            self._serving = [asyncio.create_task(self._serve(engine)) for engine in self._engines]
        answer: asyncio.Future[list[ActionChunk]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(observations, seeds, prefixes, answer, time.monotonic()))
        self._arrived.set()
        return await answer

    async def _serve(self, engine: Engine) -> None:
        """One engine's life."""
        while not self._refuse(self._waiting):
            requests = await self._take()
            try:
                await self._answer(engine, requests)
            except Exception as error:  # it cannot be made anew
                self._give_up(UserError(f"the policy cannot be started again: {type(error).__name__}: {error}"))
            self._refuse(requests)

    def _give_up(self, error: UserError) -> None:
        self._given_up = self._given_up or error

    def _refuse(self, requests: Iterable[_Request]) -> bool:
        """Whether nothing is answered any more; the requests are told so."""
        for request in requests:
            if self._given_up is not None and not request.answer.done():
                request.answer.set_exception(self._given_up)
        return self._given_up is not None

    async def _take(self) -> list[_Request]:
        """The oldest request, and those behind it that fit into the same pass."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        requests = [self._waiting.popleft()]
        until_s = requests[0].came_s + self._wait_s
        while (room := self._merge - sum(len(request.seeds) for request in requests)) > 0:
            if self._waiting:
                if len(self._waiting[0].seeds) > room:
                    break
                requests.append(self._waiting.popleft())
                continue
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left_s)
            except TimeoutError:
                break
        return requests

    async def _answer(self, engine: Engine, requests: Sequence[_Request]) -> None:
        """Answer requests in one pass, or each alone if that fails. Raises what making the engine anew raises."""
        error = await self._pass(engine, requests)
        if error is None or self._given_up is not None:
            return
        if len(requests) > 1:
            for request in requests:
                await self._answer(engine, [request])
            return
        (request,) = requests
        if isinstance(error, EngineDied):
            request.deaths += 1
            if request.deaths <= RESTARTS:
                await self._answer(engine, requests)
                return
            error = PolicyError(f"the policy's process died {request.deaths} times over this request")
        elif isinstance(error, PolicyTimeoutError) and len(request.seeds) > 1:
            error = PolicyError(str(error))
        if not request.answer.done():
            request.answer.set_exception(error)

    async def _pass(self, engine: Engine, requests: Sequence[_Request]) -> Exception | None:
        """One pass. Returns what went wrong; the engine can be used again."""
        observations = [observation for request in requests for observation in request.observations]
        seeds = [seed for request in requests for seed in request.seeds]
        prefixes = join_prefixes([(request.prefixes, len(request.seeds)) for request in requests])
        began_s = time.monotonic()
        self._passes += 1
        try:
            chunks = await asyncio.wait_for(engine.infer(observations, seeds, prefixes), self._limit_s)
            if not isinstance(chunks, list) or len(chunks) != len(seeds):
                raise PolicyError(f"{_number(chunks)} for {len(seeds)} observations")
        except TimeoutError:
            await self._renew(engine)
            self._silences += 1
            if self._silences >= self._most_silences:
                self._give_up(
                    UserError(f"the policy gave no answer within {self._limit_s:g} s, {self._silences} times in a row")
                )
            return PolicyTimeoutError(f"no answer within {self._limit_s:g} s")
        except EngineDied as error:
            await self._renew(engine)
            return error
        except Exception as error:
            return error
        finally:
            self._busy_s += time.monotonic() - began_s
        self._silences = 0
        self._answers += len(seeds)
        first = 0
        for request in requests:
            if not request.answer.done():
                request.answer.set_result(chunks[first : first + len(request.seeds)])
            first += len(request.seeds)
        return None

    async def _renew(self, engine: Engine) -> None:
        self._restarts += 1
        await engine.renew()


def _number(chunks: object) -> str:
    return f"{len(chunks)} chunks" if isinstance(chunks, list) else f"a {type(chunks).__name__} instead of chunks"
