"""When what is killed: a plan made from a seed alone, before anything runs.

Stages get their share of the kills by how long they take undisturbed, each at least one as far as they last: otherwise
short stages would never see any. What a stage was too short for is left to the next one; those that are over in a
moment get none, since a kill that is left by the last stage would never be made.
"""

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["worker", "node", "driver"]
WEIGHTS: dict[Kind, float] = {"worker": 0.6, "node": 0.2, "driver": 0.2}
"""How often which kind of process is meant."""
PATIENT_SHARE = 0.7
"""Share of the kills that wait until the stage has got over the one before; the others may hit it while it recovers."""
SPREAD = 0.6
"""Share of a stage's undisturbed time over which its kills are spread: a faster run must not end before them."""

MOMENT_S = 1.0
"""A stage that takes less undisturbed is over before anything of it can be killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A kill to come."""

    kind: Kind
    """What is meant; if there is no such process at the time, another kind is taken."""
    pause_s: float
    """Time from the kill before, or from when the stage had got over it."""
    patient: bool
    """Whether it waits for that."""


def shares(kills: int, durations: Mapping[str, float]) -> dict[str, int]:
    """How many kills each stage gets, in the order given: one each as far as they last, longest stages first, the rest
    by duration (largest remainders); none for those that are over in a moment.

    durations: seconds that each stage takes undisturbed.
    """
    lasting = [name for name in durations if durations[name] >= MOMENT_S] or list(durations)
    longest = sorted(lasting, key=lambda name: -durations[name])
    counts = {name: int(place < kills) for name, place in zip(longest, range(len(longest)), strict=True)}
    left = kills - sum(counts.values())
    whole = sum(durations[name] for name in longest) or 1.0
    exact = {name: left * durations[name] / whole for name in longest}
    for name in longest:
        counts[name] += int(exact[name])
    remainders = sorted(longest, key=lambda name: int(exact[name]) - exact[name])
    for name in remainders[: kills - sum(counts.values())]:
        counts[name] += 1
    return {name: counts.get(name, 0) for name in durations}


class Schedule:
    """The kills that are left, by stage."""

    def __init__(self, kills: int, durations: Mapping[str, float], *, seed: int, every_s: float) -> None:
        """every_s: least mean time between two kills."""
        rng = random.Random(f"chaos {seed}")
        self._waiting: dict[str, deque[Planned]] = {}
        for stage, count in shares(kills, durations).items():
            gap_s = max(every_s, SPREAD * durations[stage] / max(count, 1))
            first_s = min(gap_s, SPREAD * durations[stage])  # so that the shortest stages see theirs
            self._waiting[stage] = deque(_draw(rng, gap_s if place else first_s) for place in range(count))

    def next(self, stage: str) -> Planned | None:
        """The stage's next kill, if it has one left."""
        waiting = self._waiting[stage]
        return waiting[0] if waiting else None

    def take(self, stage: str) -> None:
        """The stage's next kill has been done."""
        self._waiting[stage].popleft()

    def carry(self, stage: str) -> None:
        """A stage is under way: what earlier ones were too short for is now its own."""
        names = list(self._waiting)
        for earlier in names[: names.index(stage)]:
            while self._waiting[earlier]:
                self._waiting[stage].append(self._waiting[earlier].popleft())

    @property
    def left(self) -> int:
        """Kills to come."""
        return sum(map(len, self._waiting.values()))


def _draw(rng: random.Random, gap_s: float) -> Planned:
    kind = rng.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
    return Planned(kind=kind, pause_s=rng.uniform(0.5, 1.5) * gap_s, patient=rng.random() < PATIENT_SHARE)
