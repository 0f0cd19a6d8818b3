"""The tasks, as data: how each is told to a policy and how long it may take.

The phrasings in `held_out` are never used for training, so that evaluation can ask in words the policy has
not seen. The physics of a task is ManiSkill's own.
"""

from dataclasses import dataclass

from blm.model.embodiments import suggest
from blm.model.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One manipulation task."""

    name: str
    """Key of `TASKS`; ManiSkill's name of the task without its version."""
    env_id: str
    """ManiSkill environment that this task's scene, randomisation and success test come from."""
    instructions: tuple[str, ...]
    """Phrasings used for training, demonstrations and evaluation. The first is the default."""
    held_out: tuple[str, ...]
    """Phrasings kept for evaluation only."""
    max_steps: int
    """Control steps after which a rollout counts as failed: about two and a half times a demonstration."""
    object_name: str
    """What the pictures show as the thing to move."""
    object_noun: str
    """The same without its colour, for questions about scenes in which it has been painted."""
    goal_name: str
    """What the pictures show as the place to move it to."""
    reach_m: float = 0.06
    """A tool centre that came this near to the object's centre has reached it (a cube's half diagonal is 3.5 cm)."""


_TASKS = (
    Task(
        name="PushCube",
        env_id="PushCube-v1",
        instructions=(
            "push the blue cube into the red and white target",
            "push the blue cube onto the round target",
            "slide the cube forward into the target",
        ),
        held_out=("shove the blue block onto the bullseye", "move the cube into the target by pushing it"),
        max_steps=90,
        object_name="blue cube",
        object_noun="cube",
        goal_name="red and white target",
    ),
    Task(
        name="PickCube",
        env_id="PickCube-v1",
        instructions=(
            "pick up the red cube and move it to the green ball",
            "grasp the red cube and bring it to the green goal",
            "lift the red cube to the green ball",
        ),
        held_out=(
            "take the red block to the green sphere",
            "carry the red cube up to where the green ball is",
        ),
        max_steps=100,
        object_name="red cube",
        object_noun="cube",
        goal_name="green ball",
    ),
    Task(
        name="PullCube",
        env_id="PullCube-v1",
        instructions=(
            "pull the blue cube into the red and white target",
            "pull the blue cube back onto the round target",
            "slide the cube backward into the target",
        ),
        held_out=("drag the blue block back onto the bullseye", "move the cube into the target by pulling it"),
        max_steps=90,
        object_name="blue cube",
        object_noun="cube",
        goal_name="red and white target",
    ),
    Task(
        name="StackCube",
        env_id="StackCube-v1",
        instructions=(
            "stack the red cube on the green cube",
            "put the red cube on top of the green cube",
            "pick up the red cube and place it on the green one",
        ),
        held_out=(
            "set the red block down on the green block",
            "build a tower with the green cube below and the red cube above",
        ),
        max_steps=150,
        object_name="red cube",
        object_noun="cube to stack",
        goal_name="green cube",
    ),
    Task(
        name="PlaceSphere",
        env_id="PlaceSphere-v1",
        instructions=(
            "put the blue ball into the bin",
            "place the blue ball in the shallow bin",
            "pick up the blue ball and set it down in the bin",
        ),
        held_out=("drop the blue sphere in the box", "move the ball into the small container"),
        max_steps=150,
        object_name="blue ball",
        object_noun="ball",
        goal_name="bin",
    ),
    Task(
        name="LiftPegUpright",
        env_id="LiftPegUpright-v1",
        instructions=(
            "stand the peg upright",
            "lift the peg and stand it on its end",
            "turn the peg upright on the table",
        ),
        held_out=("raise the peg so that it stands vertically", "put the bar on the table in a vertical position"),
        max_steps=180,
        object_name="peg",
        object_noun="peg",
        goal_name="spot under the peg",
        reach_m=0.14,
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
"""Every task the project knows, by name."""


def get_task(name: str) -> Task:
    """The task of that name; UserError with the nearest known name if there is none."""
    if name in TASKS:
        return TASKS[name]
    raise UserError(f"unknown task {name!r}; {suggest(name, TASKS)}")


def instruction_for(task: Task, seed: int, *, held_out: bool = False) -> str:
    """The phrasing that goes with a seed: a fixed rotation, so that every phrasing is used equally often."""
    phrasings = task.held_out if held_out else task.instructions
    return phrasings[seed % len(phrasings)]
