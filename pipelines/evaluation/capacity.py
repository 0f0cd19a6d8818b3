"""How many simulator processes keep a policy busy, from what the first one was seen to need and to get.

A process simulates until all its episodes need an answer, and then waits for it. While one waits, the policy works for
it; while it simulates, the policy is free for others. So if an episode needs `work_s` of simulation for each look, and
the policy `answer_s` for each answer, `(work_s + answer_s) / answer_s` processes keep it busy, and more would only
wait. It is the bound of a closed queue (Denning and Buzen, 1978); reality, in which times vary, is somewhat below it,
hence one more than it says where there is room.
"""

import math
from dataclasses import dataclass

MEMORY_BYTES = 1_000_000_000
"""Of a simulator process with ten scenes and their pictures; some 0.7 GB were seen."""
MEASURED_S = 4.0
MEASURED_LOOKS = 20
"""For so long, and so often, a process is watched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How many actors, and why."""

    actors: int
    """As many simulator processes."""
    why: str
    """For the person watching."""


@dataclass(slots=True)
class Watch:
    """What one simulator process did. What it did before its first answer is not counted: that is starting."""

    looks: int = 0
    """Answers it got."""
    work_s: float = 0.0
    """What it did itself."""
    wait_s: float = 0.0
    """What it waited for answers."""
    warm: bool = False
    """Whether it has had an answer."""

    def add(self, looks: int, work_s: float, wait_s: float) -> None:
        """It came back."""
        if self.warm:
            self.looks += looks
            self.work_s += work_s
            self.wait_s += wait_s
        self.warm = self.warm or looks > 0

    @property
    def enough(self) -> bool:
        """Whether it says something."""
        return self.looks >= MEASURED_LOOKS and self.work_s + self.wait_s >= MEASURED_S


def choose_actors(*, work_s: float, answer_s: float, servers: int, cpus: int, memory_bytes: float) -> Choice:
    """Actors for a policy.

    work_s: simulation for one look. answer_s: of one of `servers` processes that have the policy, for one answer; 0
    without any such process. cpus, memory_bytes: what there is for simulators.
    """
    bounds = [(cpus, f"there are {cpus} CPUs"), (int(memory_bytes // MEMORY_BYTES), "more would not fit into memory")]
    if answer_s > 0:
        needed = math.ceil(servers * (work_s + answer_s) / answer_s) + 1
        bounds.append((needed, "more would only wait for the policy"))
    bound, why = min(bounds)
    actors = max(1, bound)
    times = f"a look takes {1000 * work_s:.1f} ms of simulation and {1000 * answer_s:.1f} ms of the policy"
    return Choice(actors=actors, why=f"{times}: {actors} simulator{'s' if actors > 1 else ''}, since {why}")
