"""The robots, as data: what a policy must know of a body to read its state and to command it.

Nothing here touches a simulator or a network; both sides take their dimensions, names and limits from this
table, so a new robot starts with one entry. Limits are those the makers publish in their robot descriptions
(Franka Emika Panda, UFACTORY xArm 6 and xArm 7, Trossen Robotics WidowX AI).

Proprioception is float32 [S]: the arm's joint positions in rad, then one gripper opening in [0 closed, 1
open]. An action is float32 [A]: the arm's absolute joint targets in rad, then one gripper command in [0
closed, 1 open].
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from blm.model.errors import UserError

CONTROL_HZ = 20
"""Control steps per second of every robot, task and dataset."""

GRIPPER_CLOSED = 0.0
GRIPPER_OPEN = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Embodiment:
    """One robot body as a policy sees it. All tuples have one entry per arm joint unless said otherwise."""

    name: str
    """Key of `EMBODIMENTS`, used in datasets and checkpoints."""
    joint_names: tuple[str, ...]
    """The arm's joints, base to tip, as its robot description calls them."""
    joint_lower_rad: tuple[float, ...]
    """Lowest position of each arm joint."""
    joint_upper_rad: tuple[float, ...]
    """Highest position of each arm joint."""
    joint_velocity_rad_s: tuple[float, ...]
    """Greatest speed of each arm joint."""
    rest_rad: tuple[float, ...]
    """Posture in which an episode starts (before the small noise of a reset)."""
    gripper_stroke_m: float
    """Distance between the fingers when the gripper is open (gripper value 1)."""
    control_hz: int = CONTROL_HZ
    """Control steps per second."""

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the S proprioceptive values."""
        return (*(f"{name}.pos_rad" for name in self.joint_names), "gripper.opening")

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the A action values."""
        return (*(f"{name}.target_rad" for name in self.joint_names), "gripper.command")

    @property
    def arm_dof(self) -> int:
        """Number of arm joints."""
        return len(self.joint_names)

    @property
    def state_dim(self) -> int:
        """S: arm joints and one gripper value."""
        return self.arm_dof + 1

    @property
    def action_dim(self) -> int:
        """A: arm joints and one gripper value."""
        return self.arm_dof + 1


def _xarm(dof: int, full_turn_rad: float, **others: float) -> tuple[float, ...]:
    """One limit per joint: a full turn for all but the joints named."""
    return tuple(others.get(f"joint{i}", full_turn_rad) for i in range(1, dof + 1))


_PANDA = Embodiment(
    name="panda",
    joint_names=tuple(f"panda_joint{i}" for i in range(1, 8)),
    joint_lower_rad=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
    joint_upper_rad=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
    joint_velocity_rad_s=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
    rest_rad=(0.0, math.pi / 8, 0.0, -5 * math.pi / 8, 0.0, 3 * math.pi / 4, math.pi / 4),
    gripper_stroke_m=0.08,
)

_XARM6 = Embodiment(
    name="xarm6",
    joint_names=tuple(f"joint{i}" for i in range(1, 7)),
    joint_lower_rad=_xarm(6, -2 * math.pi, joint2=-2.059, joint3=-3.8, joint5=-1.69297),
    joint_upper_rad=_xarm(6, 2 * math.pi, joint2=2.0944, joint3=0.19198, joint5=math.pi),
    joint_velocity_rad_s=(3.14,) * 6,
    rest_rad=(0.0, 0.0848, -1.0568, 0.0, 0.972, 0.0),
    gripper_stroke_m=0.085,
)

_XARM7 = Embodiment(
    name="xarm7",
    joint_names=tuple(f"joint{i}" for i in range(1, 8)),
    joint_lower_rad=_xarm(7, -2 * math.pi, joint2=-2.059, joint4=-0.19198, joint6=-1.69297),
    joint_upper_rad=_xarm(7, 2 * math.pi, joint2=2.0944, joint4=3.927, joint6=math.pi),
    joint_velocity_rad_s=(3.14,) * 7,
    rest_rad=(0.0, 0.0966, 0.0, 1.0452, 0.0, 0.9486, 0.0),
    gripper_stroke_m=0.085,
)

_WIDOWX_AI = Embodiment(
    name="widowx_ai",
    joint_names=tuple(f"joint_{i}" for i in range(6)),
    joint_lower_rad=(-3.05432619, 0.0, 0.0, -math.pi / 2, -math.pi / 2, -math.pi),
    joint_upper_rad=(3.05432619, math.pi, 3 * math.pi / 4, math.pi / 2, math.pi / 2, math.pi),
    joint_velocity_rad_s=(3.375, 3.375, 3.375, 7.0, 7.0, 7.0),
    rest_rad=(0.0, 1.605, 1.4654, -1.4312, 0.0, 0.0),
    gripper_stroke_m=0.088,
)

EMBODIMENTS: dict[str, Embodiment] = {e.name: e for e in (_PANDA, _XARM6, _XARM7, _WIDOWX_AI)}
"""Every robot the project knows, by name."""


def get_embodiment(name: str) -> Embodiment:
    """The embodiment of that name; UserError with the nearest known name if there is none."""
    if name in EMBODIMENTS:
        return EMBODIMENTS[name]
    raise UserError(f"unknown robot {name!r}; {suggest(name, EMBODIMENTS)}")


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known word if one is near, and all of them."""
    names = sorted(known)
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.5)
    hint = f"did you mean {lowered[near[0]]!r}? " if near else ""
    return f"{hint}known: {', '.join(names)}"
