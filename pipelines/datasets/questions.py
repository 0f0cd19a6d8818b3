"""Questions about a scene that only its picture answers, with answers from simulator truth.

Where things are is answered in position words (`<loc_..>`, see `blm.model.prompts`); everything else in a
word or two. A question whose answer would be a coin's toss to the eye (a cube neither left nor right of the
goal) is not asked. Left, right, near and far are the robot's: it stands at negative x and looks along +x, so
left is +y.
"""

import re
from collections.abc import Collection, Sequence

import numpy as np

from blm.actors.sim.tasks import TASKS, Task
from blm.model.prompts import IMAGE_PLACEHOLDER, loc_token, policy_messages
from blm.pipelines.datasets.phrasings import PHRASINGS, TASK_PHRASINGS
from blm.pipelines.datasets.scene_facts import (
    GRASPED,
    LIKE_TASKS,
    SceneFacts,
    clear_side,
    direction,
    done,
    holding,
    next_step,
    tells_task,
)

LOCATIONS = ("object_position", "goal_position", "gripper_position")
"""Categories that every training conversation holds."""
POLICY = "policy"
"""The policy's own prompt, answered with the next step."""
CHOICES = ("side", "distance", "direction", "color", "next_step", "held", "done", "task")
"""Categories with few possible answers, which are balanced."""
CATEGORIES = (*LOCATIONS, POLICY, *CHOICES)

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.8, 0.02, 0.02),
    "yellow": (0.85, 0.6, 0.02),
    "green": (0.03, 0.45, 0.06),
    "blue": (0.03, 0.1, 0.6),
    "purple": (0.3, 0.03, 0.45),
    "white": (0.85, 0.85, 0.85),
}
"""Colours an object is repainted with, linear RGB."""


def position_words(point_m: Sequence[float] | np.ndarray) -> str:
    """A world position in metres as three position words."""
    return " ".join(loc_token(axis, float(value)) for axis, value in enumerate(point_m))


def answers(facts: SceneFacts, tasks: Collection[str] = ()) -> dict[str, str]:
    """Every question that this scene answers without doubt: category -> answer. None at all if it cannot be told
    which of two like cubes is the object.

    tasks: all that occur beside it. Where a like task is among them, what only the task tells is not asked unless the
    scene tells the task.
    """
    if facts.task == "StackCube" and facts.color == "green":
        return {}
    tool, thing, goal = facts.points_m
    found: dict[str, str | None] = {
        "object_position": position_words(thing),
        "goal_position": position_words(goal),
        "gripper_position": position_words(tool),
        "side": clear_side(thing[1] - goal[1], "left", "right"),
        "distance": clear_side(thing[0] - goal[0], "farther", "nearer"),
        "direction": direction(thing - tool),
        "color": facts.color,
        "next_step": next_step(facts),
        "held": _yes_no(holding(facts)) if facts.task in GRASPED else None,
        "done": _yes_no(done(facts)),
        "task": _words(TASKS[facts.task].name),
    }
    if facts.color is None:  # instructions name the object by its own colour
        found[POLICY] = found["next_step"]
    if LIKE_TASKS.get(facts.task) in tasks and not tells_task(facts):
        found["task"] = found["next_step"] = None
    return {category: answer for category, answer in found.items() if answer is not None}


def question(category: str, task: Task, rng: np.random.Generator, *, held_out: bool = False) -> str:
    """One phrasing of a category for a task, without image placeholders."""
    if category == POLICY:
        instruction = rng.choice(task.held_out if held_out else task.instructions)
        return policy_messages(0, str(instruction))[0]["text"].removeprefix("\n")
    phrasing = TASK_PHRASINGS.get((task.name, category), PHRASINGS[category])
    texts = phrasing.held_out if held_out else phrasing.train
    text = texts[int(rng.integers(len(texts)))]
    return text.format(object=task.object_noun, goal=task.goal_name)


def with_images(text: str, n_images: int) -> str:
    """The first question of a conversation: placeholders, a line break, the text; as the policy's prompt has it."""
    return f"{IMAGE_PLACEHOLDER * n_images}\n{text}"


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else ("yes" if value else "no")


def _words(name: str) -> str:
    """`PushCube` -> `push cube`."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()
