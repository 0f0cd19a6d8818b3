"""A policy that answers many connections: what comes together is computed together.

One pass runs at a time. The next one takes what has come meanwhile; a request that finds nothing running waits for
company, but not once every connection has brought some, and never longer than `wait_ms`. Who would wait too long is
handed to the overflow, if there is one, and refused at once otherwise.
"""

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from blm.model.description import PolicyDescription
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes, join_prefixes
from blm.serve.batches.answers import Answer, Compute, Timing, timing_of
from blm.serve.batches.overflow import Overflow
from blm.serve.batches.pass_times import PassTimes
from blm.serve.observability.metrics import Metrics
from blm.serve.sessions.session import BusyError

BUSY = "too many observations are waiting; try again in a moment"


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig:
    """How requests are put together, and how long they may wait."""

    max_batch: int = 16
    """Observations in one pass, unless a single request has more."""
    wait_ms: float = 5.0
    """How long the first of them waits for company."""
    max_waiting: int = 512
    """Observations that may wait; more are refused."""
    most_wait_ms: float = 5000.0
    """Who would wait longer, as far as that can be foreseen, is refused."""
    overflow_ms: float = 200.0
    """Who would wait longer is handed to the overflow, if there is one."""
    overflow_timeout_ms: float = 3000.0
    """What the overflow has not answered by then is answered here."""

    def __post_init__(self) -> None:
        if not (1 <= self.max_batch <= 1024 and 0 <= self.wait_ms <= 1000 and self.max_waiting >= 1):
            raise UserError("give max_batch from 1 to 1024, wait_ms from 0 to 1000 and max_waiting of 1 or more")
        if not (self.most_wait_ms > 0 and self.overflow_ms >= 0 and self.overflow_timeout_ms > 0):
            raise UserError("give most_wait_ms and overflow_timeout_ms above 0, and overflow_ms of 0 or more")


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    observations: Sequence[Observation]
    seeds: Sequence[int]
    prefixes: Prefixes | None
    came_s: float
    answer: "asyncio.Future[tuple[list[ActionChunk], Timing]]"


class BatchingService:
    """A `PolicyService` over something that computes batches. All its methods belong to one event loop."""

    def __init__(
        self,
        compute: Compute,
        description: PolicyDescription,
        config: BatchConfig | None = None,
        *,
        overflow: Compute | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """overflow: computes what would wait too long here; called as often at once as there is need."""
        self.description = description
        self.config = config or BatchConfig()
        self.metrics = metrics if metrics is not None else Metrics()
        self.passes = 0
        """Passes so far."""
        self._computing = compute
        timeout_s = self.config.overflow_timeout_ms / 1e3
        self._overflow = Overflow(overflow, self.metrics, timeout_s=timeout_s) if overflow is not None else None
        self._waiting: deque[_Request] = deque()
        self._came = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._clients = 0
        self._times = PassTimes()
        self._running: tuple[float, int] | None = None
        """When the pass that runs began, and how many observations it has."""
        self.metrics.watch_queue(self.waiting)

    @contextmanager
    def client(self, protocol: str) -> Iterator[None]:
        """As `PolicyService`."""
        self._clients += 1
        try:
            with self.metrics.session(protocol):
                yield
        finally:
            self._clients -= 1

    async def infer(
        self,
        observations: Sequence[Observation],
        seeds: Sequence[int],
        prefixes: Prefixes | None = None,
        *,
        protocol: str = "control",
        began_s: float | None = None,
    ) -> list[Answer]:
        """As `PolicyService`. A bad observation spoils its own request alone."""
        began_s = time.perf_counter() if began_s is None else began_s
        answered = None
        if self._overflow is not None and self.expected_ms(len(seeds)) > self.config.overflow_ms:
            answered = await self._overflow.answer(observations, seeds, prefixes)
        chunks, timing = answered if answered is not None else await self._queued(observations, seeds, prefixes)
        total_ms = 1e3 * (time.perf_counter() - began_s)
        timing = replace(timing, total_ms=total_ms)
        for chunk, observation in zip(chunks, observations, strict=True):
            self.metrics.answered(timing, robot=observation.embodiment, protocol=protocol, actions=len(chunk.actions))
        return [Answer(chunk=chunk, timing=timing) for chunk in chunks]

    def waiting(self) -> int:
        """Observations that wait."""
        return sum(len(request.seeds) for request in self._waiting)

    def expected_ms(self, more: int = 0) -> float:
        """How long a request would wait before its pass begins, as far as passes so far tell; more: observations that
        it has."""
        left_ms = 0.0
        if self._running is not None:
            began_s, count = self._running
            left_ms = max(self._times.of(count) - 1e3 * (time.perf_counter() - began_s), 0.0)
        passes = max(self.waiting() + more - 1, 0) // self.config.max_batch
        return left_ms + passes * self._times.of(self.config.max_batch)

    async def _queued(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None
    ) -> tuple[list[ActionChunk], Timing]:
        expected_ms = self.expected_ms(len(seeds))
        if self.waiting() + len(seeds) > self.config.max_waiting or expected_ms > self.config.most_wait_ms:
            raise BusyError(BUSY, retry_after_s=max(math.ceil(expected_ms / 1e3), 1))
        answer: asyncio.Future[tuple[list[ActionChunk], Timing]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(observations, seeds, prefixes, time.perf_counter(), answer))
        self._came.set()
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return await answer

    async def _serve(self) -> None:
        while self._waiting:
            await self._wait_for_company()
            if requests := self._take():
                await self._compute(requests)

    async def _wait_for_company(self) -> None:
        until_s = time.perf_counter() + self.config.wait_ms / 1e3
        while len(self._waiting) < self._clients and self.waiting() < self.config.max_batch:
            left_s = until_s - time.perf_counter()
            if left_s <= 0:
                return
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), left_s)
            except TimeoutError:
                return

    def _take(self) -> list[_Request]:
        """The oldest requests that fit into one pass; those whose client has gone are dropped."""
        taken: list[_Request] = []
        count = 0
        while self._waiting and (not taken or count + len(self._waiting[0].seeds) <= self.config.max_batch):
            request = self._waiting.popleft()
            if not request.answer.done():
                taken.append(request)
                count += len(request.seeds)
        return taken

    async def _compute(self, requests: Sequence[_Request]) -> None:
        """Answer requests in one pass. If it fails, each half of them by itself: in the end, who spoilt it alone."""
        observations = list(itertools.chain.from_iterable(request.observations for request in requests))
        seeds = list(itertools.chain.from_iterable(request.seeds for request in requests))
        prefixes = join_prefixes([(request.prefixes, len(request.seeds)) for request in requests])
        self.passes += 1
        began_s = time.perf_counter()
        self._running = (began_s, len(seeds))
        try:
            chunks, timing = await self._computing(observations, seeds, prefixes)
            if len(chunks) != len(seeds):
                raise RuntimeError(f"{len(chunks)} chunks for {len(seeds)} observations")
        except Exception as error:
            half = len(requests) // 2
            if half:
                await self._compute(requests[:half])
                await self._compute(requests[half:])
            elif not requests[0].answer.done():
                requests[0].answer.set_exception(error)
            return
        finally:
            self._running = None
        self._times.note(len(seeds), 1e3 * (time.perf_counter() - began_s))
        self.metrics.computed(len(seeds))
        first = 0
        for request in requests:
            if not request.answer.done():
                mine = timing_of(timing, queue_ms=1e3 * (began_s - request.came_s), batch=len(seeds))
                request.answer.set_result((chunks[first : first + len(request.seeds)], mine))
            first += len(request.seeds)
