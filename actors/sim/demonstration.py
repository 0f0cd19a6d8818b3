"""What is asked of a demonstrator and what comes back: data only, so that whoever passes it on imports little."""

from dataclasses import dataclass, field

from blm.actors.sim.episode import Episode
from blm.actors.sim.failures import FailureReason
from blm.actors.sim.world import Cell

PLANNER_VERSION = 2
"""Changes whenever the same seed may give another demonstration. Kept with every episode."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemonstrationConfig:
    """How demonstrations are made."""

    retries: int = 2
    """How many times a failed attempt is planned anew from where it ended."""
    rollbacks: int = 1
    """How many times, after that, the last good state is restored and another way tried from there."""
    hold_steps: int = 6
    """Control steps for which the last target is held at the end, to teach stopping."""
    disturbed_share: float = 0.3
    """Share of the episodes that start from a disturbance."""
    speed: float = 0.8
    """Share of the joints' velocity and acceleration limits that planned motions use."""
    waypoint_noise_m: float = 0.0
    """Key poses that are only passed on the way are moved by up to that along each axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """What came of one seed."""

    seed: int
    """Scene seed."""
    episode: Episode | None
    """The demonstration, or None if there is none."""
    first_plan: bool
    """Whether the very first plan succeeded."""
    failures: tuple[FailureReason, ...]
    """Why attempts failed, in order; the last one is final if there is no episode."""
    rejected: dict[str, int] = field(default_factory=dict)
    """How many alternatives were rejected in planning, by reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemonstrationItem:
    """A piece of work for a demonstrator."""

    cell: Cell
    """What to demonstrate."""
    seeds: tuple[int, ...]
    """Scene seeds, in the order to be tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemonstrationBatch:
    """What came of an item."""

    demonstrations: tuple[Demonstration, ...]
    """One per seed, in order."""
    busy_s: float
    """Time a worker spent on its seeds, without making the simulator."""
