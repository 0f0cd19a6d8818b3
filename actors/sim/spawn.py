"""Where ManiSkill's spawn regions are adapted to a robot, as data: only where its reach demands it.

The things of a scene are shifted, and their spread about the middle of their region can be narrowed; things
that belong together (a cube and the target 20 cm ahead of it) keep their arrangement. A cell that is not
listed is stock. Every entry is also told in docs/adaptations.md.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Spawn:
    """How one cell's spawn regions differ from ManiSkill's."""

    shift_m: tuple[float, float] = (0.0, 0.0)
    """By how much everything is moved along world x and y."""
    spread: float = 1.0
    """Width of a region, as a share of ManiSkill's."""


SPAWNS: dict[tuple[str, str], Spawn] = {
    # ManiSkill's targets reach to x = -0.4, under the short arm and behind its base; this far out the side camera sees
    # all of them too.
    ("widowx_ai", "PullCube"): Spawn(shift_m=(0.12, 0.0)),
    # The regions' far corners are out of its reach, their near ones under its elbow.
    ("widowx_ai", "StackCube"): Spawn(spread=0.75),
    # Its hand gets under neither end of a peg that lies close to its base or at the edge of its reach.
    ("widowx_ai", "LiftPegUpright"): Spawn(shift_m=(0.05, 0.0), spread=0.75),
}
"""By robot (`blm.model.embodiments.EMBODIMENTS`) and task (`tasks.TASKS`)."""


STOCK = Spawn()
"""ManiSkill's own regions."""


def spawn_of(robot: str, task: str, asked: Spawn = STOCK) -> Spawn:
    """The adaptation of a cell, and what was asked for on top of it."""
    own = SPAWNS.get((robot, task), STOCK)
    shift_m = (own.shift_m[0] + asked.shift_m[0], own.shift_m[1] + asked.shift_m[1])
    return Spawn(shift_m=shift_m, spread=own.spread * asked.spread)
