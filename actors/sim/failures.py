"""Why a demonstration did not come about. One closed list, so that counts of runs can be compared."""

from enum import StrEnum


class FailureReason(StrEnum):
    """The first thing that went wrong, from planning to execution."""

    IK_UNREACHABLE = "ik_unreachable"
    """No joint configuration puts the tool at a key pose, or none near enough along a straight segment."""
    JOINT_LIMIT = "joint_limit"
    """The only configurations found leave the joint limits."""
    SELF_COLLISION = "self_collision"
    """The robot would touch itself."""
    ENVIRONMENT_COLLISION = "environment_collision"
    """The robot would touch the table or an object it should not."""
    NO_PATH = "no_path"
    """Both ends are fine but the search found no way between them, or the way could not be timed."""
    GRASP_MISSED = "grasp_missed"
    """The fingers closed and hold nothing."""
    DROPPED = "dropped"
    """What was held slipped out of the fingers on the way."""
    EXECUTION_FAILED = "execution_failed"
    """Everything was executed, and the task was not done."""
    TIMEOUT = "timeout"
    """The task's step limit was reached first."""
    OBJECT_LOST = "object_lost"
    """The object left the workspace."""
    CRASHED = "crashed"
    """The simulator or planner process died and retries on other processes did too."""


class AttemptError(Exception):
    """An attempt at the task failed; `reason` says why."""

    def __init__(self, reason: FailureReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class PlanningError(AttemptError):
    """A motion cannot be planned. `rejected` has the reason of every alternative that was tried."""

    def __init__(self, reason: FailureReason, detail: str, rejected: tuple[FailureReason, ...] = ()) -> None:
        super().__init__(reason, detail)
        self.rejected = rejected


class ExecutionError(AttemptError):
    """A motion was executed and did not do what it should."""
