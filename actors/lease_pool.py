"""A pool of Ray actors that each have several pieces of work in hand, and come back with those that are done.

What a `WorkPool` is for items done one after another, this is for items that an actor does best side by side. The
driver keeps the books (`Leases`): an actor is given as much as it has slots, and a few more so that none is empty
while the driver is busy. Each actor has one call under way, `advance(new items)`, and comes back within seconds even
if nothing is done. One that does not come back in `limit_s` hangs, whatever in it should have noticed, and is killed.
What dies is replaced, and its work done by others.

An item's result is taken once: from the actor that holds it, while it lives.

An actor has `begin(start)`, called once for each `run` before anything else, and `advance(items) -> Progress`.
"""

import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError

from blm.actors.leases import Leases, Progress
from blm.actors.pool import brief
from blm.model.errors import UserError

BACKLOG = 2
"""Items that an actor has beyond its slots."""
FALSE_STARTS = 5
"""Deaths one after another of actors that have not begun, for each actor of the pool, after which it is given up."""
START_LIMIT_S = 600.0
"""An actor has begun after that long, waiting for a place on the cluster included."""
LOST = (RayActorError, OutOfMemoryError)

ItemT = TypeVar("ItemT", bound=Hashable)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch(Generic[ItemT, ResultT]):
    """What came of one actor's return, or of its death."""

    done: list[tuple[ItemT, ResultT]] = field(default_factory=list)
    """Items and their results."""
    lost: list[tuple[ItemT, str]] = field(default_factory=list)
    """Items that are given up, and how the last actor died."""
    looks: int = 0
    """As `Progress` has it, as the next two."""
    work_s: float = 0.0
    wait_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Seat:
    """An actor and what it is at."""

    actor: ActorHandle
    begun: bool = False
    call: ray.ObjectRef | None = None
    deadline_s: float = 0.0


class LeasePool(Generic[ItemT, ResultT]):
    """Runs items on actors, several at a time on each. A context manager; leaving it kills the actors."""

    def __init__(self, make_actor: Callable[[], ActorHandle], *, actors: int, slots: int, limit_s: float) -> None:
        """slots: items that an actor does side by side. limit_s: no call to `advance` takes that long."""
        assert min(actors, slots) >= 1, f"{actors} actors of {slots} slots"
        self._make_actor, self._slots, self._limit_s = make_actor, slots, limit_s
        self._seats: list[_Seat] = []
        self._false_starts = 0
        self.size = actors
        """How many actors work, at most. May be set while a run is going on: more are started, fewer let go."""
        self.deaths = 0
        """How many have died so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, start: Any, leases: Leases[ItemT]) -> Iterator[Batch[ItemT, ResultT]]:
        """Do everything in `leases`; whatever an actor comes back with, as it comes, empty batches too.

        start: what each actor is begun with. Raises the UserError that `begin` or `advance` raised, RuntimeError
        if no actor can be started. A run that is not exhausted leaves its actors at work until the next one begins.
        """
        for seat in self._seats:
            seat.begun, seat.call = False, None
        while leases.pending:
            self._staff(start, leases)
            yield from self._wait(leases)

    def hand_over(self) -> list[ActorHandle]:
        """The actors that are there, for somebody else to use and to kill."""
        actors = [seat.actor for seat in self._seats]
        self._seats.clear()
        return actors

    def close(self) -> None:
        """Kill the actors."""
        for seat in self._seats:
            ray.kill(seat.actor)
        self._seats.clear()

    def _staff(self, start: Any, leases: Leases[ItemT]) -> None:
        """Seats for the work there is, and work for the seats that have none."""
        for seat in [seat for seat in self._seats[self.size :] if not leases.held(seat)]:
            self._seats.remove(seat)
            ray.kill(seat.actor)
        missing = min(self.size, leases.pending) - len(self._seats)
        self._seats += [_Seat(actor=self._make_actor()) for _ in range(missing)]
        working = sum(seat.begun for seat in self._seats)
        for place, seat in enumerate(self._seats):
            if seat.call is not None:
                continue
            if not seat.begun:
                self._call(seat, seat.actor.begin.remote(start), START_LIMIT_S)
                continue
            room = self._slots + BACKLOG - leases.held(seat) if place < self.size else 0
            items = leases.take(seat, room, working)
            if leases.held(seat):
                self._call(seat, seat.actor.advance.remote(items), self._limit_s)

    @staticmethod
    def _call(seat: _Seat, call: ray.ObjectRef, limit_s: float) -> None:
        seat.call, seat.deadline_s = call, time.monotonic() + limit_s

    def _wait(self, leases: Leases[ItemT]) -> Iterator[Batch[ItemT, ResultT]]:
        """Hear of the actors that have come back, or will not."""
        calls = {seat.call: seat for seat in self._seats if seat.call is not None}
        left_s = min(seat.deadline_s for seat in calls.values()) - time.monotonic()
        ready, _ = ray.wait(list(calls), num_returns=1, timeout=max(left_s, 0.0))
        for call in ready:
            yield self._hear(calls[call], call, leases)
        now_s = time.monotonic()
        for call, seat in calls.items():
            if call not in ready and now_s > seat.deadline_s and not ray.wait([call], timeout=0)[0]:
                yield self._bury(seat, "it hung: it did not come back in time", leases)

    def _hear(self, seat: _Seat, call: ray.ObjectRef, leases: Leases[ItemT]) -> Batch[ItemT, ResultT]:
        try:
            answer = ray.get(call)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UserError) else error) from None
        except LOST as error:
            if isinstance(error, ActorDiedError) and error.actor_init_failed:
                raise RuntimeError(f"a worker cannot be started: {error}") from error
            return self._bury(seat, brief(error), leases)
        seat.call, self._false_starts = None, 0
        if not seat.begun:
            seat.begun = True
            return Batch()
        progress: Progress[ItemT, ResultT] = answer
        for item, _ in progress.done:
            leases.finish(seat, item)
        return Batch(done=progress.done, looks=progress.looks, work_s=progress.work_s, wait_s=progress.wait_s)

    def _bury(self, seat: _Seat, why: str, leases: Leases[ItemT]) -> Batch[ItemT, ResultT]:
        """An actor is gone, or as good as gone: it must not come back and work beside its successor."""
        self.deaths += 1
        ray.kill(seat.actor)
        self._seats.remove(seat)
        if not seat.begun:
            self._false_starts += 1
            if self._false_starts > FALSE_STARTS * self.size:
                raise RuntimeError(f"workers die before they begin, {self._false_starts} in a row; the last: {why}")
        return Batch(lost=[(item, why) for item in leases.lose(seat)])
