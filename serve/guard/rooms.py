"""How much of the server is taken, by whom, and how often somebody may come: counts, and a bucket of tokens a key.

One replica's event loop alone touches them, so nothing is locked.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from blm.serve.guard.config import GuardConfig
from blm.serve.guard.errors import RefusedError


class Bucket:
    """Tokens that come at a rate, up to a number that can be spent at once."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._counted_s = time.monotonic()

    def take(self) -> float:
        """Take a token, and say in how many seconds it will have been there: 0 if it was."""
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._counted_s) * self._rate_per_s)
        self._counted_s = now
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate_per_s)

    def give_back(self) -> None:
        """Return a token that was not used."""
        self._tokens += 1


class Rooms:
    """Who is in."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._buckets: dict[str, Bucket] = {}
        self._requests: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._buffered = 0

    @contextmanager
    def request(self, key: str) -> Iterator[None]:
        """Held while a request is answered. RefusedError: 429 for the key's own limits, 503 when all is full."""
        config = self._config
        if self._requests.total() >= config.max_requests:
            raise self._full("the server is answering as many requests as it can; try again in a moment")
        if self._requests[key] >= config.key_requests:
            raise self._own(f"{config.key_requests} requests of this key are open; wait for answers", self._wait_s())
        bucket = self._bucket(key)
        if bucket is not None and (wait_s := bucket.take()) > 0:
            bucket.give_back()
            raise self._own(f"this key may ask {config.key_rate_per_s:g} times a second; slow down", wait_s)
        with _counted(self._requests, key):
            yield

    @contextmanager
    def connection(self, key: str) -> Iterator[None]:
        """Held while a WebSocket is open. RefusedError as above."""
        config = self._config
        if self._connections.total() >= config.max_connections:
            raise self._full("the server has as many connections as it can hold; try again in a moment")
        if self._connections[key] >= config.key_connections:
            raise self._own(f"this key has {config.key_connections} connections; close some", self._wait_s())
        with _counted(self._connections, key):
            yield

    @contextmanager
    def buffer(self) -> Iterator[Callable[[int], None]]:
        """Held while a body is in memory; called with each size it grows by. RefusedError (503) when all is full."""
        held = 0

        def grow(size: int) -> None:
            nonlocal held
            if self._buffered + size > self._config.max_buffered_bytes:
                raise self._full("the server holds as many large requests as it can; try again in a moment")
            held += size
            self._buffered += size

        try:
            yield grow
        finally:
            self._buffered -= held

    async def pace(self, key: str) -> None:
        """Wait until a WebSocket's next message may be read: who sends too fast is slowed down, not cut off."""
        bucket = self._bucket(key)
        if bucket is not None and (wait_s := bucket.take()) > 0:
            await asyncio.sleep(wait_s)

    def _bucket(self, key: str) -> Bucket | None:
        if not self._config.key_rate_per_s:
            return None
        if key not in self._buckets:
            self._buckets[key] = Bucket(self._config.key_rate_per_s, self._config.key_burst)
        return self._buckets[key]

    def _wait_s(self) -> float:
        return float(self._config.retry_after_s)

    def _full(self, message: str) -> RefusedError:
        return RefusedError(503, message, reason="full", headers={"Retry-After": str(self._config.retry_after_s)})

    def _own(self, message: str, wait_s: float) -> RefusedError:
        return RefusedError(429, message, reason="key's limit", headers={"Retry-After": str(max(1, round(wait_s)))})


@contextmanager
def _counted(counts: Counter[str], key: str) -> Iterator[None]:
    counts[key] += 1
    try:
        yield
    finally:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]
