"""The tasks, as data: how each is told to a policy and how long it may take.

The phrasings in `held_out` are never used for training, so that evaluation can ask in words the policy has
not seen. The physics of a task is ManiSkill's own; `available` says which ones this version can simulate.
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
    goal_name: str
    """What the pictures show as the place to move it to."""
    available: bool
    """Whether the simulator side of this version supports it."""


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
        max_steps=60,
        object_name="blue cube",
        goal_name="red and white target",
        available=True,
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
        goal_name="green ball",
        available=True,
    ),
    Task(
        name="PullCube",
        env_id="PullCube-v1",
        instructions=("pull the blue cube into the red and white target",),
        held_out=("drag the blue block back onto the bullseye",),
        max_steps=60,
        object_name="blue cube",
        goal_name="red and white target",
        available=False,
    ),
    Task(
        name="StackCube",
        env_id="StackCube-v1",
        instructions=("stack the red cube on the green cube",),
        held_out=("put the red block on top of the green block",),
        max_steps=150,
        object_name="red cube",
        goal_name="green cube",
        available=False,
    ),
    Task(
        name="PlaceSphere",
        env_id="PlaceSphere-v1",
        instructions=("put the blue ball into the bin",),
        held_out=("drop the blue sphere in the box",),
        max_steps=150,
        object_name="blue ball",
        goal_name="bin",
        available=False,
    ),
    Task(
        name="LiftPegUpright",
        env_id="LiftPegUpright-v1",
        instructions=("stand the peg upright",),
        held_out=("raise the peg so that it stands on its end",),
        max_steps=200,
        object_name="peg",
        goal_name="table",
        available=False,
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
