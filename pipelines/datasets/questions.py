"""Questions about a scene that only its picture answers, with answers from simulator truth.

Where things are is answered in position words (`<loc_..>`, see `blm.model.prompts`); everything else in a
word or two. A question whose answer would be a coin's toss to the eye (a cube neither left nor right of the
goal) is not asked. Left, right, near and far are the robot's: it stands at negative x and looks along +x, so
left is +y.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blm.actors.sim.tasks import TASKS, Task
from blm.model.prompts import IMAGE_PLACEHOLDER, loc_token, policy_messages

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

SIDE_MARGIN_M = 0.02
"""Least offset along an axis for left/right and near/far to be asked."""
CLEARLY = 1.4
"""How many times larger than the others the largest offset must be to be called the direction."""
GRASP_NEAR_M, GRASP_FAR_M = 0.015, 0.04
"""Closer, the tool centre is at the object; farther, it is not; in between nothing is asked."""
HOLDING_BELOW, OPEN_ABOVE = 0.65, 0.8
"""Gripper openings of closed-on-a-cube and open."""
DONE_M = {"PushCube": (0.092, 0.108), "PickCube": (0.02, 0.035)}
"""Distance of object and goal below which a task is done, and above which it is not, by task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneFacts:
    """What the simulator knows about a picture."""

    task: str
    """Key of `blm.actors.sim.tasks.TASKS`."""
    object_positions: tuple[float, ...]
    """Tool centre, object and goal in world metres, 9 numbers."""
    gripper: float
    """Opening in [0 closed, 1 open]."""
    success: bool
    """Whether the simulator calls the task done."""
    color: str | None = None
    """Name of the colour the object was repainted with; None if it has its own, which instructions mention."""

    @property
    def points_m(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tool centre, object, goal, [3] each."""
        tool, thing, goal = np.asarray(self.object_positions, dtype=np.float64).reshape(3, 3)
        return tool, thing, goal


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrasing:
    """Ways to ask one thing. {object} is the bare noun, {goal} the goal as the task names it."""

    train: tuple[str, ...]
    """For training conversations and half of the test questions."""
    held_out: tuple[str, ...]
    """For test questions only."""


PHRASINGS: dict[str, Phrasing] = {
    "object_position": Phrasing(
        train=("Where is the {object}?", "Locate the {object}.", "Give the position of the {object}."),
        held_out=("At which position is the {object}?",),
    ),
    "goal_position": Phrasing(
        train=("Where is the goal?", "Where is the {goal}?", "Locate the {goal}."),
        held_out=("Give the position of the {goal}.",),
    ),
    "gripper_position": Phrasing(
        train=("Where is the gripper?", "Locate the gripper.", "Give the position of the gripper."),
        held_out=("At which position is the gripper?",),
    ),
    "side": Phrasing(
        train=("Is the {object} left or right of the goal?", "On which side of the goal is the {object}?"),
        held_out=("Does the {object} lie to the left or to the right of the goal?",),
    ),
    "distance": Phrasing(
        train=("Is the {object} nearer or farther than the goal?", "Nearer or farther than the goal: the {object}?"),
        held_out=("Compared with the goal, is the {object} nearer or farther?",),
    ),
    "direction": Phrasing(
        train=("Which way is the {object} from the gripper?", "In which direction must the gripper go?"),
        held_out=("Seen from the gripper, in which direction is the {object}?",),
    ),
    "color": Phrasing(
        train=("What color is the {object}?", "Which color has the {object}?"),
        held_out=("Name the color of the {object}.",),
    ),
    "next_step": Phrasing(
        train=("What is the next step?", "What should the robot do next?"),
        held_out=("Which step comes next?",),
    ),
    "held": Phrasing(
        train=("Is the gripper holding the {object}?", "Is the {object} in the gripper?"),
        held_out=("Does the gripper hold the {object}?",),
    ),
    "done": Phrasing(
        train=("Is the task done?", "Has the {object} reached the goal?"),
        held_out=("Is the {object} at the goal?",),
    ),
    "task": Phrasing(
        train=("Which task is this?", "Which task is set up here?"),
        held_out=("What is the task in this scene?",),
    ),
}  # fmt: skip


def position_words(point_m: Sequence[float] | np.ndarray) -> str:
    """A world position in metres as three position words."""
    return " ".join(loc_token(axis, float(value)) for axis, value in enumerate(point_m))


def answers(facts: SceneFacts) -> dict[str, str]:
    """Every question that this scene answers without doubt: category -> answer."""
    tool, thing, goal = facts.points_m
    found: dict[str, str | None] = {
        "object_position": position_words(thing),
        "goal_position": position_words(goal),
        "gripper_position": position_words(tool),
        "side": _one_of(thing[1] - goal[1], "left", "right"),
        "distance": _one_of(thing[0] - goal[0], "farther", "nearer"),
        "direction": _direction(thing - tool),
        "color": facts.color,
        "next_step": next_step(facts),
        "held": _yes_no(_holding(facts)) if facts.task == "PickCube" else None,
        "done": _yes_no(_done(facts)),
        "task": _words(TASKS[facts.task].name),
    }
    if facts.color is None:  # instructions name the object by its own colour
        found[POLICY] = found["next_step"]
    return {category: answer for category, answer in found.items() if answer is not None}


def question(category: str, task: Task, rng: np.random.Generator, *, held_out: bool = False) -> str:
    """One phrasing of a category for a task, without image placeholders."""
    if category == POLICY:
        instruction = rng.choice(task.held_out if held_out else task.instructions)
        return policy_messages(0, str(instruction))[0]["text"].removeprefix("\n")
    phrasing = PHRASINGS[category]
    text = str(rng.choice(phrasing.held_out if held_out else phrasing.train))
    return text.format(object=task.object_name.split()[-1], goal=task.goal_name)


def with_images(text: str, n_images: int) -> str:
    """The first question of a conversation: placeholders, a line break, the text; as the policy's prompt has it."""
    return f"{IMAGE_PLACEHOLDER * n_images}\n{text}"


def next_step(facts: SceneFacts) -> str | None:
    """What a demonstration would do now: reach, grasp, move, push or done; None where the eye cannot tell."""
    done = _done(facts)
    if done is None:
        return None
    if done:
        return "done"
    if facts.task == "PushCube":
        return _push_step(facts)
    if facts.task == "PickCube":
        return _pick_step(facts)
    return None


def _push_step(facts: SceneFacts) -> str | None:
    """Push once the fingers are low and behind the cube, as seen from the goal."""
    tool, thing, goal = facts.points_m
    along = (goal - thing)[:2] / max(float(np.linalg.norm((goal - thing)[:2])), 1e-6)
    behind_m = float((thing - tool)[:2] @ along)
    sideways_m = abs(float((thing - tool)[:2] @ np.array([-along[1], along[0]])))
    if tool[2] < 0.035 and 0.01 < behind_m < 0.06 and sideways_m < 0.015:
        return "push"
    if tool[2] > 0.05 or not -0.01 < behind_m < 0.08 or sideways_m > 0.03:
        return "reach"
    return None


def _pick_step(facts: SceneFacts) -> str | None:
    holding = _holding(facts)
    if holding:
        return "move"
    tool, thing, _ = facts.points_m
    distance_m = float(np.linalg.norm(thing - tool))
    if distance_m < GRASP_NEAR_M and facts.gripper > OPEN_ABOVE:
        return "grasp"
    return "reach" if distance_m > GRASP_FAR_M else None


def _holding(facts: SceneFacts) -> bool | None:
    tool, thing, _ = facts.points_m
    distance_m = float(np.linalg.norm(thing - tool))
    if distance_m > GRASP_FAR_M or facts.gripper > OPEN_ABOVE:
        return False
    return True if distance_m < 2 * GRASP_NEAR_M and facts.gripper < HOLDING_BELOW else None


def _done(facts: SceneFacts) -> bool | None:
    if facts.task not in DONE_M:
        return facts.success
    below_m, above_m = DONE_M[facts.task]
    _, thing, goal = facts.points_m
    offset = thing - goal if facts.task == "PickCube" else (thing - goal)[:2]
    distance_m = float(np.linalg.norm(offset))
    if distance_m < below_m:
        return True
    return False if distance_m > above_m else None


def _direction(offset_m: np.ndarray) -> str | None:
    """The axis along which the object lies clearly farthest from the gripper."""
    size = np.abs(offset_m)
    axis = int(size.argmax())
    others_m = float(np.delete(size, axis).max())
    if size[axis] < SIDE_MARGIN_M or size[axis] < CLEARLY * others_m:
        return None
    names = (("backward", "forward"), ("right", "left"), ("down", "up"))
    return names[axis][int(offset_m[axis] > 0)]


def _one_of(offset_m: float, positive: str, negative: str) -> str | None:
    if abs(offset_m) < SIDE_MARGIN_M:
        return None
    return positive if offset_m > 0 else negative


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else ("yes" if value else "no")


def _words(name: str) -> str:
    """`PushCube` -> `push cube`."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()
