"""How a question about a scene is put: many ways for training, others that training never uses.

With two wordings of a question a small model learns the wordings; with a dozen it learns the words. Short questions are
written out, those that share their parts are made of them: `[is|lies]` stands for either. What is held out differs from
every training wording in two words at least, and not in their order alone; its words are words that training knows.
"""

import itertools
import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrasing:
    """Ways to ask one thing. {object} is the noun without colour, {goal} the goal as the task names it."""

    train: tuple[str, ...]
    """For training conversations and half of the test questions."""
    held_out: tuple[str, ...]
    """For test questions only."""


_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")


def ways(*patterns: str) -> tuple[str, ...]:
    """All texts that patterns stand for, in order: `[Find|Locate] the cube.` stands for two."""
    found = []
    for pattern in patterns:
        parts = _ALTERNATIVES.split(pattern)  # text and alternatives by turns
        choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
        found += ["".join(words) for words in itertools.product(*choices)]
    return tuple(found)


def _place(noun: str) -> Phrasing:
    """Ways to ask where a thing is. noun: may hold alternatives."""
    return Phrasing(
        train=ways(
            f"Where [is|do you see|can you find] the {noun}?",
            f"[Locate|Find|Point to] the {noun}.",
            f"[Give|Tell me] the position of the {noun}.",
            f"What is the [position|place] of the {noun}?",
            f"[Tell me|Say] where the {noun} is.",
            f"Where is the {noun} now?",
            f"Look at the {noun}: where is it?",
        ),
        held_out=ways(f"At which position is the {noun}?", f"Which place do you find the {noun} at?"),
    )


PHRASINGS: dict[str, Phrasing] = {
    "object_position": _place("{object}"),
    "goal_position": _place("[goal|{goal}]"),
    "gripper_position": _place("gripper"),
    "side": Phrasing(
        train=ways(
            "Is the {object} left or right of the goal?",
            "Is the {object} [to the|on the] left or right of the goal?",
            "On which side of the goal is the {object}?",
            "Which side of the goal is the {object} on[|, left or right]?",
            "Left or right of the goal: the {object}?",
            "Where is the {object}, left or right of the goal?",
            "[Tell me|Say] on which side of the goal the {object} is.",
            "[Tell me|Say] if the {object} is left or right of the goal.",
            "Seen from the robot, is the {object} left or right of the goal?",
        ),
        held_out=(
            "Does the {object} lie to the left or to the right of the goal?",
            "Seen from the goal, does the {object} lie on the left or on the right?",
        ),
    ),
    "distance": Phrasing(
        train=ways(
            "Is the {object} nearer or farther than the goal?",
            "Nearer or farther than the goal: the {object}?",
            "Is the {object} nearer to the robot than the goal, or farther?",
            "Is the {object} nearer than the goal or farther[| away]?",
            "How far is the {object}: nearer or farther than the goal?",
            "[Tell me|Say] if the {object} is nearer or farther than the goal.",
            "Where is the {object}, nearer or farther than the goal?",
            "Which is it: is the {object} nearer or farther than the goal?",
            "Does the {object} lie nearer or farther [|away ]than the goal?",
            "The {object} is nearer or farther than the goal?",
        ),
        held_out=(
            "Compared with the goal, is the {object} nearer or farther?",
            "Seen from the robot, is the {object} farther away or nearer than the goal is?",
        ),
    ),
    "direction": Phrasing(
        train=ways(
            "Which way is the {object} from the gripper?",
            "In [which|what] direction must the gripper go?",
            "Which way must the gripper [go|move] to the {object}?",
            "In which direction is the {object} from the gripper?",
            "To reach the {object}, which way must the gripper [go|move]?",
            "What is the direction from the gripper to the {object}?",
            "Name the direction from the gripper to the {object}.",
            "Which direction leads the gripper to the {object}?",
            "[Tell me|Say] which way the gripper must go.",
            "Which way to the {object}?",
        ),
        held_out=(
            "Seen from the gripper, in which direction is the {object}?",
            "Which way should the robot move its gripper now?",
        ),
    ),
    "color": Phrasing(
        train=ways(
            "What color is the {object}?",
            "What is the color of the {object}?",
            "Which color [has|is] the {object}?",
            "Which color does the {object} have?",
            "What color do you see on the {object}?",
            "Tell me the color of the {object}.",
            "The {object} has which color?",
            "Look at the {object}: which color is it?",
            "In which color is the {object} painted?",
            "[Tell me|Say] which color the {object} has.",
        ),
        held_out=("Name the color of the {object}.", "How is the {object} painted, in what color?"),
    ),
    "next_step": Phrasing(
        train=ways(
            "What is the next step?",
            "What [should|must|will] the robot do [next|now]?",
            "What [comes|is] next?",
            "What is to be done [next|now]?",
            "What [should|must] happen [next|now]?",
            "[Tell me|Say|Name] the next step.",
            "What does the robot [do|have to do] next?",
        ),
        held_out=("Which step comes next?", "Which step must be done by the robot now?"),
    ),
    "held": Phrasing(
        train=ways(
            "Is the [gripper|robot] holding the {object}?",
            "Is the {object} in the gripper?",
            "Is the {object} [held|held by the robot|between the fingers]?",
            "Has the [gripper|robot] [got|grasped] the {object}?",
            "Does the robot have the {object} in its [hand|gripper]?",
            "Do you see the robot hold the {object}?",
            "Has the {object} been grasped?",
            "Is there the {object} between the fingers?",
        ),
        held_out=("Does the gripper hold the {object}?", "Do the fingers of the robot have the {object}?"),
    ),
    "done": Phrasing(
        train=ways(
            "Is the [task|work|job] [done|finished]?",
            "Is all of the task done?",
            "Has the {object} [reached the goal|come to the goal]?",
            "Has the robot [finished|done its task|reached its goal]?",
            "Is the robot [done|finished]?",
            "Is the {object} where it should be[| now]?",
            "Has the goal been reached?",
            "Did the robot [finish|do] its task?",
        ),
        held_out=("Is the {object} at the goal?", "Has all the work been finished by the robot?"),
    ),
    "task": Phrasing(
        train=ways(
            "Which task is [this|it|set up here]?",
            "What is [the|the robot's|this] task?",
            "What task [do you see|is this|does the robot have]?",
            "[Name|Tell me|Say] the task.",
            "Which task do you see in the scene?",
            "Which task [should|must|will] the robot do?",
            "What is the name of the task?",
            "[Tell me|Say] which task this is.",
        ),
        held_out=("What is the task in this scene?", "Which task has the robot been set?"),
    ),
}  # fmt: skip

_FINISHED = Phrasing(
    train=ways(
        "Is the [task|work|job] [done|finished]?",
        "Is all of the task done?",
        "Has the robot [finished|done its task|reached its goal]?",
        "Is the robot [done|finished]?",
        "Did the robot [finish|do] its task?",
        "Has the robot put the {object} down where it should be?",
    ),
    held_out=("Has all the work been finished by the robot?", "Has its goal been reached by the robot?"),
)
"""Where an object that has come to its goal must be let go as well: held there, it is "at the goal", and not done."""

TASK_PHRASINGS: dict[tuple[str, str], Phrasing] = {
    ("StackCube", "goal_position"): _place("[goal|top of the green cube]"),
    ("StackCube", "done"): _FINISHED,
    ("PlaceSphere", "done"): _FINISHED,
    ("LiftPegUpright", "goal_position"): Phrasing(
        train=(*_place("spot under the peg").train, *ways("Where [will|should|must] the peg stand?")),
        held_out=("At which position is the spot under the peg?", "At which place will the peg be standing?"),
    ),
    ("LiftPegUpright", "done"): Phrasing(
        train=ways(
            "Is the [task|work|job] [done|finished]?",
            "Is all of the task done?",
            "Has the robot [finished|done its task|reached its goal]?",
            "Does the peg stand [upright|on its end]?",
            "Has the peg been put upright?",
            "Is the peg upright[| now]?",
            "Is the peg standing upright?",
        ),
        held_out=("Is the peg standing on its end?", "Has all the work been finished by the robot?"),
    ),
}
"""By task and category, where the general words make no sense."""
