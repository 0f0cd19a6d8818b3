"""The ways in which an instruction is asked, for caches that hold several."""

from blm.actors.sim.tasks import TASKS
from blm.model.errors import UserError


def phrasings_of(instruction: str, count: int) -> tuple[str, ...]:
    """`count` wordings of an instruction: itself, then the others that its task is trained with, in their order.

    An instruction of no task of ours, as foreign datasets have, is repeated as it is. UserError for more wordings than
    the task has; those that are kept for evaluation do not count.
    """
    for task in TASKS.values():
        if instruction in task.instructions:
            own = task.instructions.index(instruction)
            known = (*task.instructions[own:], *task.instructions[:own])
            if count > len(known):
                raise UserError(f"intents.phrasings is {count}; {task.name} is told in {len(known)} ways: give that")
            return known[:count]
    return (instruction,) * count
