"""A pool of Ray actors that work through items, whatever happens to the actors.

Results come as they are ready. When an actor dies - killed, crashed in native code, ended by its watchdog, lost with
its node - another takes its place and the item it was at is done again, a bounded number of times, and after that comes
back as failed. An exception raised by the work itself is no accident of a process: it is raised in the driver.

Only an actor that is up is given an item: one that waits for a node that may never come back holds nothing up.

    with WorkPool(lambda: ray.remote(Worker).remote(), actors=2) as pool:
        pool.submit(item)
        outcome = pool.next()        # outcome.item, outcome.result or outcome.error

Anything with a method `work(item)` can be an actor.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayError, RayTaskError

from blm.model.errors import UserError

LOST = (RayActorError, OutOfMemoryError)
FALSE_STARTS = 5
"""Deaths one after another of actors that were not up yet, for each actor of the pool, after which it is given up."""

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome(Generic[ItemT, ResultT]):
    """What became of one item."""

    item: ItemT
    """The item as submitted."""
    result: ResultT | None
    """What `work` returned; None if the item failed."""
    error: str | None
    """How the last actor died, if every attempt ended so; None if the item was done."""
    attempts: int
    """How many actors were at it."""


@dataclass(slots=True)
class _Task(Generic[ItemT]):
    item: ItemT
    attempts: int = 0


class WorkPool(Generic[ItemT, ResultT]):
    """Runs `work(item)` on actors, one item at a time each. A context manager; leaving it kills the actors."""

    def __init__(
        self,
        make_actor: Callable[[], ActorHandle],
        *,
        actors: int,
        attempts: int = 3,
        idle: Iterable[ActorHandle] = (),
    ) -> None:
        """`attempts` is how many actors may die at one item before it counts as failed. `idle`: actors that are there
        already and belong to the pool from now on."""
        assert actors >= 1, f"a pool needs actors, got {actors}"
        assert attempts >= 1, f"an item needs attempts, got {attempts}"
        self._make_actor = make_actor
        self._size = actors
        self._attempts = attempts
        self._idle: list[ActorHandle] = []
        self._starting: dict[ray.ObjectRef, ActorHandle] = {}
        self._false_starts = 0
        self._waiting: deque[_Task[ItemT]] = deque()
        self._running: dict[ray.ObjectRef, tuple[ActorHandle, _Task[ItemT]]] = {}
        self.deaths = 0
        """How many actors have died so far."""
        for actor in idle:
            self._start(actor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pending(self) -> int:
        """Items submitted and not yet returned by `next`."""
        return len(self._waiting) + len(self._running)

    @property
    def has_room(self) -> bool:
        """Whether another item would keep an actor busy soon: a caller that produces items lazily stops here."""
        return self.pending < 2 * self._size

    def submit(self, item: ItemT) -> None:
        """Adds an item. Never blocks; see `has_room`."""
        self._waiting.append(_Task(item))
        self._dispatch()

    def next(self, timeout_s: float | None = None) -> Outcome[ItemT, ResultT] | None:
        """The next item that is done or has failed, in order of completion; None if none is within the time given.

        Raises what `work` raised, if it did. It is an error to call it with nothing pending.
        """
        assert self.pending, "nothing was submitted"
        limit_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._dispatch()
            left_s = None if limit_s is None else max(limit_s - time.monotonic(), 0.0)
            ready, _ = ray.wait([*self._running, *self._starting], num_returns=1, timeout=left_s)
            if not ready:
                return None
            if ready[0] in self._starting:
                self._welcome(ready[0])
                continue
            actor, task = self._running.pop(ready[0])
            task.attempts += 1
            try:
                result = ray.get(ready[0])
            except RayTaskError as error:
                self._idle.append(actor)
                raise (error.cause if isinstance(error.cause, UserError) else error) from None
            except LOST as error:
                self._bury(actor, error)
                if task.attempts < self._attempts:
                    self._waiting.appendleft(task)
                    continue
                return Outcome(item=task.item, result=None, error=brief(error), attempts=task.attempts)
            self._idle.append(actor)
            return Outcome(item=task.item, result=result, error=None, attempts=task.attempts)

    def _dispatch(self) -> None:
        """Items for the actors that are up, and more actors for the items that are left over."""
        while self._waiting and self._idle:
            actor, task = self._idle.pop(), self._waiting.popleft()
            self._running[actor.work.remote(task.item)] = (actor, task)
        missing = min(len(self._waiting) - len(self._starting), self._size - len(self.actors()))
        for _ in range(missing):
            self._start(self._make_actor())

    def _start(self, actor: ActorHandle) -> None:
        self._starting[actor.__ray_ready__.remote()] = actor

    def _welcome(self, ready: ray.ObjectRef) -> None:
        """An actor is up, or died before."""
        actor = self._starting.pop(ready)
        try:
            ray.get(ready)
        except LOST as error:
            self._bury(actor, error)
            self._false_starts += 1
            if self._false_starts > FALSE_STARTS * self._size:
                raise RuntimeError(
                    f"workers die before they begin, {self._false_starts} in a row: {brief(error)}"
                ) from error
            return
        self._false_starts = 0
        self._idle.append(actor)

    def _bury(self, actor: ActorHandle, error: RayError) -> None:
        self.deaths += 1
        if isinstance(error, ActorDiedError) and error.actor_init_failed:
            raise RuntimeError(f"a worker cannot be started: {error}") from error
        ray.kill(actor)  # an actor that is only out of reach must not come back and work beside its successor

    def actors(self) -> list[ActorHandle]:
        """The actors at work, waiting for work, or on their way."""
        return [*self._idle, *(actor for actor, _ in self._running.values()), *self._starting.values()]

    def close(self) -> None:
        """Kills the actors; items not returned yet are dropped."""
        for actor in self.actors():
            ray.kill(actor)
        self._idle.clear()
        self._starting.clear()
        self._running.clear()
        self._waiting.clear()


def brief(error: RayError) -> str:
    """The telling line of Ray's long message about an actor that died."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "cause" in line or "exit" in line.lower()), lines[0])[:300]
