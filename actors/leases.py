"""Who has which piece of work: the books of a pool whose workers hold several pieces at a time and may die.

Work is ordered in groups (the cells of an evaluation), since a worker that stays with a group keeps what it has
prepared for it. A worker takes from its own group; when that is empty, from one that nobody is at, and then it
helps where most is waiting. Towards the end it takes less, so that all have something to do until the last moment.

When a worker dies, what it held goes back. Nobody knows which piece killed it, if any did: a piece that was aboard
at `TOGETHER` deaths is suspected, and run alone at the end; one whose worker dies `ALONE` times with nothing else
aboard is given up. The second number is generous because processes also die of other things than their work.

Plain object, no Ray.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

TOGETHER = 2
"""Deaths in company after which a piece of work is suspected."""
ALONE = 4
"""Deaths alone after which it is given up."""

ItemT = TypeVar("ItemT", bound=Hashable)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress(Generic[ItemT, ResultT]):
    """What a worker says when it comes back for more."""

    done: list[tuple[ItemT, ResultT]]
    """Items brought to an end, with what came of them. The others that it was given it still has."""
    looks: int = 0
    """Answers it got from its policy since it last came."""
    work_s: float = 0.0
    """What it did itself meanwhile."""
    wait_s: float = 0.0
    """What it waited for the policy."""


@dataclass(slots=True)
class _Held(Generic[ItemT]):
    """What a worker has."""

    items: dict[ItemT, None] = field(default_factory=dict)
    alone: bool = False
    group: Hashable = None


class Leases(Generic[ItemT]):
    """Items that wait, items that are held, and how often each was aboard a worker that died."""

    def __init__(
        self,
        items: Iterable[ItemT],
        group: Callable[[ItemT], Hashable],
        *,
        together: int = TOGETHER,
        alone: int = ALONE,
    ) -> None:
        """items: all there is to do, each once, in order. group: what an item belongs to."""
        self._group, self._together, self._alone = group, together, alone
        self._waiting: dict[Hashable, deque[ItemT]] = {}
        for item in items:
            self._waiting.setdefault(group(item), deque()).append(item)
        self._suspects: deque[ItemT] = deque()
        self._held: dict[Hashable, _Held[ItemT]] = {}
        self._deaths_together: dict[ItemT, int] = {}
        self._deaths_alone: dict[ItemT, int] = {}

    @property
    def waiting(self) -> int:
        """Items that nobody holds."""
        return sum(map(len, self._waiting.values())) + len(self._suspects)

    @property
    def pending(self) -> int:
        """Items that are neither done nor given up."""
        return self.waiting + sum(len(held.items) for held in self._held.values())

    def held(self, worker: Hashable) -> int:
        """How many items a worker has."""
        return len(self._held[worker].items) if worker in self._held else 0

    def take(self, worker: Hashable, room: int, workers: int) -> list[ItemT]:
        """Up to `room` more items for a worker, one of `workers`. Empty if there is nothing for it now."""
        held = self._held.setdefault(worker, _Held())
        if room <= 0 or (held.alone and held.items):
            return []
        ordinary = self.waiting - len(self._suspects)
        if not ordinary:
            return [] if held.items else self._take_suspect(held)
        share = -(-(ordinary + self._held_in_all()) // max(workers, 1)) - len(held.items)
        taken = [self._next(held) for _ in range(min(max(share, 1 if not held.items else 0), room, ordinary))]
        held.alone = False
        held.items.update(dict.fromkeys(taken))
        return taken

    def finish(self, worker: Hashable, item: ItemT) -> None:
        """An item is done. KeyError if the worker does not hold it: it would be counted twice."""
        del self._held[worker].items[item]

    def lose(self, worker: Hashable) -> list[ItemT]:
        """A worker has died: what it held goes back. Returns what is given up."""
        held = self._held.pop(worker, None)
        given_up: list[ItemT] = []
        if held is None:
            return given_up
        for item in reversed(held.items):
            deaths = self._deaths_alone if len(held.items) == 1 else self._deaths_together
            deaths[item] = deaths.get(item, 0) + 1
            if self._deaths_alone.get(item, 0) >= self._alone:
                given_up.append(item)
            elif self._suspected(item):
                self._suspects.append(item)
            else:
                self._waiting.setdefault(self._group(item), deque()).appendleft(item)
        return given_up

    def _suspected(self, item: ItemT) -> bool:
        return self._deaths_together.get(item, 0) >= self._together or item in self._deaths_alone

    def _held_in_all(self) -> int:
        return sum(len(held.items) for held in self._held.values() if not held.alone)

    def _take_suspect(self, held: _Held[ItemT]) -> list[ItemT]:
        if not self._suspects:
            return []
        item = self._suspects.popleft()
        held.alone, held.items = True, {item: None}
        return [item]

    def _next(self, held: _Held[ItemT]) -> ItemT:
        """The next ordinary item for a worker; there is one."""
        if not self._waiting.get(held.group):
            groups = [group for group, items in self._waiting.items() if items]
            taken = {other.group for other in self._held.values() if other.items}
            free = [group for group in groups if group not in taken]
            held.group = free[0] if free else max(groups, key=lambda group: len(self._waiting[group]))
        return self._waiting[held.group].popleft()
