"""A pool of Ray actors that work through items, whatever happens to the actors.

Results come as they are ready. When an actor dies - killed, crashed in native code, ended by its watchdog, lost with
its node - another takes its place and the item it was at is done again, a bounded number of times, and after that comes
back as failed. An exception raised by the work itself is no accident of a process: it is raised in the driver.

    with WorkPool(lambda: ray.remote(Worker).remote(), actors=2) as pool:
        pool.submit(item)
        outcome = pool.next()        # outcome.item, outcome.result or outcome.error

Anything with a method `work(item)` can be an actor.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from blm.model.errors import UserError

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
        self._idle = list(idle)
        self._waiting: deque[_Task[ItemT]] = deque()
        self._running: dict[ray.ObjectRef, tuple[ActorHandle, _Task[ItemT]]] = {}
        self.deaths = 0
        """How many actors have died so far."""

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
        while True:
            self._dispatch()
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
            if not ready:
                return None
            actor, task = self._running.pop(ready[0])
            task.attempts += 1
            try:
                result = ray.get(ready[0])
            except RayTaskError as error:
                self._idle.append(actor)
                raise (error.cause if isinstance(error.cause, UserError) else error) from None
            except RayActorError as error:
                self._bury(actor, error)
                if task.attempts < self._attempts:
                    self._waiting.appendleft(task)
                    continue
                return Outcome(item=task.item, result=None, error=brief(error), attempts=task.attempts)
            self._idle.append(actor)
            return Outcome(item=task.item, result=result, error=None, attempts=task.attempts)

    def _dispatch(self) -> None:
        while self._waiting and len(self._running) < self._size:
            actor = self._idle.pop() if self._idle else self._make_actor()
            task = self._waiting.popleft()
            self._running[actor.work.remote(task.item)] = (actor, task)

    def _bury(self, actor: ActorHandle, error: RayActorError) -> None:
        self.deaths += 1
        if isinstance(error, ActorDiedError) and error.actor_init_failed:
            raise RuntimeError(f"a worker cannot be started: {error}") from error
        ray.kill(actor)  # an actor that is only out of reach must not come back and work beside its successor

    def actors(self) -> list[ActorHandle]:
        """The actors at work or waiting for work now."""
        return [*self._idle, *(actor for actor, _ in self._running.values())]

    def close(self) -> None:
        """Kills the actors; items not returned yet are dropped."""
        for actor in self.actors():
            ray.kill(actor)
        self._idle.clear()
        self._running.clear()
        self._waiting.clear()


def brief(error: RayActorError) -> str:
    """The telling line of Ray's long message about an actor that died."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "cause" in line or "exit" in line.lower()), lines[0])[:300]
