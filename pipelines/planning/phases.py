"""The time of one phase of a stage: workers, the driver, the storage and the network work at once, the slowest decides.

The pieces of a phase are alike and any free worker takes the next, so no queue of events has to be played through: the
phase takes as long as its busiest resource, and as long as the first or last piece needs on the others. A test compares
that with a simulation piece by piece.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A part of a stage that nothing of the same stage overlaps with."""

    name: str
    start_s: float = 0.0
    """Until the first unit: processes, imports, models."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each resource is busy (workers, driver, storage, network); they work at once."""
    fill_s: float = 0.0
    """What a first piece needs before, or a last one after, the busiest resource."""

    @property
    def bottleneck(self) -> str:
        """The busiest resource, or `start-up` where that is longer."""
        if not self.parts:
            return "start-up"
        name = max(self.parts, key=lambda part: self.parts[part])
        return name if self.parts[name] >= self.start_s else "start-up"

    @property
    def seconds(self) -> float:
        """Wall time."""
        return self.start_s + max(self.parts.values(), default=0.0) + self.fill_s


def spread(
    *,
    units: float,
    unit_s: float,
    workers: int,
    piece: float = 1.0,
    piece_driver_s: float = 0.0,
    unit_bytes: float = 0.0,
    bytes_s: float = math.inf,
    worker: str = "workers",
) -> tuple[dict[str, float], float]:
    """(parts, fill) of `units` worked on in pieces of `piece` units by `workers` that are alike.

    unit_s: of one worker. piece_driver_s: of the driver, for handing out a piece and taking its result. unit_bytes:
    read or written by the workers at `bytes_s` for all of them together. worker: what to call them.
    """
    if units <= 0:
        return {}, 0.0
    pieces = math.ceil(units / piece)
    rounds = math.ceil(pieces / workers)
    piece_s = min(piece, units) * unit_s
    by_workers = min(rounds * piece_s, units * unit_s) if workers == 1 else rounds * piece_s
    parts = {worker: by_workers}
    if piece_driver_s:
        parts["driver"] = pieces * piece_driver_s
    if unit_bytes:
        parts["storage"] = units * unit_bytes / bytes_s
    busiest = max(parts, key=lambda part: parts[part])
    return parts, 0.0 if busiest == worker else piece_s


def alone(seconds: float, *, what: str = "driver") -> dict[str, float]:
    """Parts of something that one resource does alone."""
    return {what: seconds} if seconds > 0 else {}
