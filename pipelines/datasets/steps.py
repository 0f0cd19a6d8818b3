"""The steps of the tasks in words, in their order, and what a picture shows of them.

A step here is one that a person would name: waiting and drawing back afterwards are none. Judgements follow
`scene_facts`: None where the eye cannot tell.
"""

import numpy as np

from blm.actors.sim.tasks import TASKS
from blm.pipelines.datasets.scene_facts import (
    DONE_M,
    GRASPED,
    HALF_M,
    OPEN_ABOVE,
    PUT_DOWN,
    SLID,
    SceneFacts,
    away_m,
    done,
    holding,
    next_step,
)

PLANS: dict[str, tuple[str, ...]] = {
    "PushCube": ("approach", "push"),
    "PullCube": ("approach", "pull"),
    "PickCube": ("approach", "grasp", "carry"),
    "StackCube": ("approach", "grasp", "carry", "place", "release"),
    "PlaceSphere": ("approach", "grasp", "carry", "place", "release"),
    "LiftPegUpright": ("approach", "grasp", "rotate", "release"),
}
"""The steps of each task from its start to its end, by the names of `phases`."""
NAMED = frozenset(name for plan in PLANS.values() for name in plan) | {"lay"}
"""Phases that questions speak of."""

_WORDS = {
    "approach": "reach the {object}",
    "grasp": "grasp the {object}",
    "release": "let go of the {object}",
    "push": "push the {object} into the {goal}",
    "pull": "pull the {object} into the {goal}",
    "rotate": "turn the {object} upright",
    "lay": "lay the {object} down",
}
_TASK_WORDS = {
    ("PushCube", "approach"): "move the gripper behind the blue cube",
    ("PullCube", "approach"): "move the gripper beyond the blue cube",
    ("PickCube", "carry"): "carry the red cube to the green ball",
    ("StackCube", "carry"): "carry the red cube over the green cube",
    ("StackCube", "place"): "lower the red cube onto the green cube",
    ("PlaceSphere", "carry"): "carry the blue ball over the bin",
    ("PlaceSphere", "place"): "lower the blue ball into the bin",
}
_STILL_SHOWS = {"approach": "reach", "carry": "move", "place": "move"}
"""What `next_step` calls a step where it has another name for it."""
ABOVE_PLACE_M, AWAY_FROM_PLACE_M = 0.015, 0.04
"""Offset over the table below which an object is over its place, and above which it clearly is not."""
FAR_FROM_CUBE_M = 0.08
"""A tool farther than that from a cube can clearly not push it yet."""
YET_TO_LOWER_M = 0.012
"""Height over its place from which an object must still be lowered."""


def step_words(task: str, step: str) -> str:
    """A step as told to a person: `grasp the red cube`."""
    data = TASKS[task]
    words = _TASK_WORDS.get((task, step)) or _WORDS[step]
    return words.format(object=data.object_name, goal=data.goal_name)


def listed(task: str, steps: tuple[str, ...]) -> str:
    """Steps in order as one answer: `1-<grasp the red cube>, 2-<...>`."""
    return ", ".join(f"{i}-<{step_words(task, step)}>" for i, step in enumerate(steps, start=1))


def shows_next(step: str, facts: SceneFacts) -> bool:
    """Whether one still picture tells that this step comes next."""
    if next_step(facts) != _STILL_SHOWS.get(step, step):
        return False
    if facts.task not in PUT_DOWN or step not in ("carry", "place"):
        return True
    aside_m, above_m = _offset_m(facts)
    if step == "carry":
        return aside_m > AWAY_FROM_PLACE_M
    return aside_m < ABOVE_PLACE_M and above_m > YET_TO_LOWER_M


def achieved(step: str, facts: SceneFacts) -> bool | None:
    """Whether a picture shows the result of a step."""
    if step == "approach":
        return _reached(facts)
    if step == "grasp":
        return holding(facts)
    if step == "release":
        return _released(facts)
    if facts.task in PUT_DOWN and step in ("carry", "place"):
        return _brought(facts) if step == "carry" else _lowered(facts)
    return done(facts)


def possible(step: str, facts: SceneFacts) -> bool | None:
    """Whether a step can be done at once, with nothing else before it; judged only where nobody would argue."""
    held = holding(facts) if facts.task in GRASPED else False
    following = next_step(facts)
    if following is None and held is not True:
        return None
    if step == "approach":
        return False if held else (True if following == "reach" else None)
    if step == "grasp":
        return True if following == "grasp" else (False if held or following == "reach" else None)
    if step in SLID.values():
        tool, thing, _ = facts.points_m
        far = bool(np.linalg.norm(tool - thing) > FAR_FROM_CUBE_M)
        return True if following == step else (False if following == "reach" and far else None)
    if held is None:
        return None
    if not held:
        return None if following == "done" else False
    return True if shows_next(step, facts) else None


def _reached(facts: SceneFacts) -> bool | None:
    following = next_step(facts)
    if following == "reach":
        return False
    return True if following in ("grasp", *SLID.values()) else None


def _released(facts: SceneFacts) -> bool | None:
    if facts.task == "LiftPegUpright":
        if facts.gripper > OPEN_ABOVE and facts.success:
            return True
        return False if holding(facts) else None
    if done(facts):
        return True
    return False if holding(facts) else None


def _brought(facts: SceneFacts) -> bool | None:
    aside_m, above_m = _offset_m(facts)
    if holding(facts) and aside_m < ABOVE_PLACE_M and above_m > -0.005:
        return True
    return False if aside_m > AWAY_FROM_PLACE_M else None


def _lowered(facts: SceneFacts) -> bool | None:
    below_m, above_m = DONE_M[facts.task]
    distance_m = away_m(facts)
    if distance_m < 0.6 * below_m:
        return True
    return False if distance_m > above_m else None


def _offset_m(facts: SceneFacts) -> tuple[float, float]:
    """How far the object is from its place: over the table, and in height."""
    _, thing, goal = facts.points_m
    return float(np.linalg.norm((thing - goal)[:2])), float(thing[2] - goal[2] - HALF_M)
