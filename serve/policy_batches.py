"""A policy that answers many connections: what comes together is computed together.

One pass runs at a time, in a thread of its own. The next one takes what has come meanwhile; a request that finds
nothing running waits for company, but not once every connection has brought some, and never longer than `wait_ms`.
"""

import asyncio
import functools
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from blm.model.description import PolicyDescription
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes, join_prefixes
from blm.serve.policy_protocols import BusyError


class Answering(Protocol):
    """A policy."""

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """A chunk for each observation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig:
    """How requests are put together."""

    max_batch: int = 16
    """Observations in one pass, unless a single request has more."""
    wait_ms: float = 5.0
    """How long the first of them waits for company."""
    max_waiting: int = 512
    """Observations that may wait; more are refused."""

    def __post_init__(self) -> None:
        if not (1 <= self.max_batch <= 1024 and 0 <= self.wait_ms <= 1000 and self.max_waiting >= 1):
            raise UserError("give max_batch from 1 to 1024, wait_ms from 0 to 1000 and max_waiting of 1 or more")


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    observations: Sequence[Observation]
    seeds: Sequence[int]
    prefixes: Prefixes | None
    answer: "asyncio.Future[list[ActionChunk]]"


class BatchingService:
    """A `PolicyService` over a policy. All its methods belong to one event loop."""

    def __init__(self, policy: Answering, description: PolicyDescription, config: BatchConfig | None = None) -> None:
        self.description = description
        self.config = config or BatchConfig()
        self.passes = 0
        """Passes of the policy so far."""
        self._policy = policy
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")
        self._waiting: deque[_Request] = deque()
        self._came = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._clients = 0

    @contextmanager
    def client(self) -> Iterator[None]:
        """As `PolicyService`."""
        self._clients += 1
        try:
            yield
        finally:
            self._clients -= 1

    async def infer(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """As `PolicyService`. A bad observation spoils its own request alone."""
        if self._observations() + len(observations) > self.config.max_waiting:
            raise BusyError("too many observations are waiting; try again in a moment")
        answer: asyncio.Future[list[ActionChunk]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(observations, seeds, prefixes, answer))
        self._came.set()
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return await answer

    def close(self) -> None:
        """Let the pass that runs end, and take no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _observations(self) -> int:
        return sum(len(request.seeds) for request in self._waiting)

    async def _serve(self) -> None:
        while self._waiting:
            await self._wait_for_company()
            requests = self._take()
            if requests and not await self._compute(requests) and len(requests) > 1:
                for request in requests:
                    await self._compute([request])

    async def _wait_for_company(self) -> None:
        until_s = time.perf_counter() + self.config.wait_ms / 1e3
        while len(self._waiting) < self._clients and self._observations() < self.config.max_batch:
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

    async def _compute(self, requests: Sequence[_Request]) -> bool:
        """Answer requests in one pass. False if it failed, which a single request is told and several are not."""
        observations = list(itertools.chain.from_iterable(request.observations for request in requests))
        seeds = list(itertools.chain.from_iterable(request.seeds for request in requests))
        prefixes = join_prefixes([(request.prefixes, len(request.seeds)) for request in requests])
        self.passes += 1
        try:
            infer = functools.partial(self._policy.infer_batch, observations, seeds, prefixes)
            chunks = await asyncio.get_running_loop().run_in_executor(self._thread, infer)
            if len(chunks) != len(seeds):
                raise RuntimeError(f"{len(chunks)} chunks for {len(seeds)} observations")
        except Exception as error:
            if len(requests) == 1 and not requests[0].answer.done():
                requests[0].answer.set_exception(error)
            return False
        first = 0
        for request in requests:
            if not request.answer.done():
                request.answer.set_result(chunks[first : first + len(request.seeds)])
            first += len(request.seeds)
        return True
