"""The simulator's side of a robot, as data: where it stands, what its gripper is like, how its joints are driven.

`descriptions.py` finds a robot's files, `agents.py` makes a ManiSkill agent of its `RobotSpec`.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blm.actors.sim.descriptions import description, official_sources
from blm.actors.sim.world import Geometry
from blm.model.embodiments import EMBODIMENTS, GRIPPER_CLOSED, GRIPPER_OPEN, Embodiment
from blm.model.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class RobotSpec:
    """What the simulator and the planner need to know beyond the embodiment."""

    embodiment: Embodiment
    """Names, limits and rest posture."""
    base_link: str
    """First link of the arm's chain."""
    tcp_link: str
    """Tool centre point: between the finger pads, z out of the hand, y along the closing direction."""
    base_position_m: tuple[float, float, float]
    """Where the base stands in the world."""
    lean_from_m: float
    """Horizontal distance from the base up to which the hand reaches the table while pointing straight down."""
    lean_above_m: float = math.inf
    """Height up to which the hand can point straight down in the middle of the table."""
    finger_joints: tuple[str, ...]
    """All joints of the gripper, in the order in which the simulator keeps them."""
    finger_multipliers: tuple[float, ...]
    """Position of each of them as a multiple of the leading finger's, which is the one that `driven` names first."""
    driven_joints: tuple[str, str]
    """The leading finger and the one across, both driven to the commanded position. Mimic joints follow them."""
    levelled_joints: tuple[tuple[str, str], ...] = ()
    """(joint, which other it turns back by as much as that has turned): keeps the pads of a parallelogram parallel."""
    finger_open: float
    """Position of the leading finger joint when the gripper is open, in m or rad."""
    finger_closed: float
    """Its position when the fingers touch."""
    finger_squeeze: float
    """How far beyond closed it is commanded, so that the fingers press on thin objects."""
    grip_steps: int = 4
    """Control steps the fingers take to close on an object."""
    finger_links: tuple[str, str]
    """The links that touch what is grasped."""
    finger_outwards_y: tuple[float, float]
    """Sign of the y axis of each finger link that points away from the other finger."""
    joint_acceleration_rad_s2: tuple[float, ...]
    """Greatest acceleration of each arm joint that a planned motion may ask for."""
    slide_pace: float = 1.0
    """Share of the usual speed at which objects are pushed: what is pushed by a stiff arm slides on when that stops."""
    slide_gripper: float = 0.0
    """How far the gripper is open when it pushes. Two fingers apart steer a cube that one narrow finger turns away."""
    turn_pace: float = 1.0
    """Share of the usual speed at which a heavy object is turned in the air: slow enough for the fingers to hold it."""
    stand_first: tuple[float, float, float] = (0.02, -0.25, 1.0)
    """The way to stand a peg that the arm can do most often, see `standing`: grip (m), pitch and twist (rad)."""
    arm_stiffness: float
    """Position gain of the arm's drives, N m per rad."""
    arm_damping: float
    """Velocity gain of the arm's drives."""
    arm_force_limit: float
    """Greatest torque of the arm's drives, N m."""
    arm_armature: float = 0.0
    """Inertia of motors and gears at each arm joint, kg m2. Without it a light wrist on a stiff drive never rests."""
    gripper_stiffness: float
    """Position gain of the fingers' drives, N per m or N m per rad."""
    gripper_damping: float
    """Velocity gain of the fingers' drives."""
    gripper_force_limit: float
    """Greatest force (N) or torque (N m) of the fingers' drives."""
    finger_armature: float = 0.0
    """The same for each gripper joint, kg or kg m2."""

    @property
    def urdf(self) -> dict[Geometry, Path]:
        """The file that must be there for each geometry; `descriptions.description` makes sure."""
        name = self.embodiment.name
        return {"lite": description(name, "lite"), "official": official_sources(name)[-1]}

    def finger_positions(self, gripper: float) -> list[float]:
        """Positions of all gripper joints when it is opened that far (0 closed, 1 open)."""
        leader = self.finger_closed + gripper * (self.finger_open - self.finger_closed)
        return [leader * multiplier for multiplier in self.finger_multipliers]

    def gripper_opening(self, fingers: npt.ArrayLike) -> float:
        """Opening in [0 closed, 1 open] from the positions of all gripper joints. Linear in the joints."""
        leader = np.mean(np.asarray(fingers, dtype=np.float64) / self.finger_multipliers)
        opening = (leader - self.finger_closed) / (self.finger_open - self.finger_closed)
        return float(np.clip(opening, GRIPPER_CLOSED, GRIPPER_OPEN))

    def finger_command(self, gripper: float) -> float:
        """Target of the leading finger for a gripper command in [0, 1]; 0 asks for a little more than closed."""
        squeezed = self.finger_closed + np.sign(self.finger_closed - self.finger_open) * self.finger_squeeze
        return squeezed + gripper * (self.finger_open - squeezed)


def _robotiq(side: str) -> tuple[str, str, str]:
    return (f"{side}_outer_knuckle_joint", f"{side}_inner_knuckle_joint", f"{side}_inner_finger_joint")


_LEFT, _RIGHT = _robotiq("left"), _robotiq("right")


def _xarm(name: str, acceleration_rad_s2: tuple[float, ...]) -> RobotSpec:
    """An xArm with the Robotiq 2F-85.

    The gripper's fingers are parallelograms: knuckles turn by up to 0.81 rad from open to closed and the
    inner finger joints turn back by the same angle, so the pads stay parallel and move on arcs: 14 mm outwards
    along the hand while closing. The tool centre is fixed where the maker's description has it, which is
    between the pads whenever they hold something; the fingertips end 1 mm short of it when open, 11 mm beyond
    it on a 4 cm cube and 13 mm beyond it when closed.

    The maker allows 20 rad/s2; these drives follow so closely that a cube pushed that hard is flung ahead.
    """
    return RobotSpec(
        embodiment=EMBODIMENTS[name],
        base_link="link_base",
        tcp_link="eef",
        base_position_m=(-0.48, 0.0, 0.0),
        lean_from_m=0.68,
        finger_joints=(_LEFT[0], _LEFT[1], _RIGHT[0], _RIGHT[1], _LEFT[2], _RIGHT[2]),
        finger_multipliers=(1.0, 1.0, 1.0, 1.0, -1.0, -1.0),
        driven_joints=(_LEFT[0], _RIGHT[0]),
        levelled_joints=((_LEFT[2], _LEFT[0]), (_RIGHT[2], _RIGHT[0])),
        finger_open=0.0,
        finger_closed=0.81,
        finger_squeeze=0.1,
        grip_steps=6,
        finger_links=("left_inner_finger_pad", "right_inner_finger_pad"),
        finger_outwards_y=(1.0, 1.0),
        joint_acceleration_rad_s2=acceleration_rad_s2,
        slide_pace=0.5,
        slide_gripper=0.3,
        arm_stiffness=1e4,
        arm_damping=2e2,
        arm_force_limit=100.0,
        arm_armature=0.1,
        gripper_stiffness=12.0,
        gripper_damping=0.6,
        gripper_force_limit=15.0,
        finger_armature=3e-3,
    )


ROBOTS: dict[str, RobotSpec] = {
    "panda": RobotSpec(
        embodiment=EMBODIMENTS["panda"],
        base_link="panda_link0",
        tcp_link="panda_hand_tcp",
        base_position_m=(-0.615, 0.0, 0.0),
        lean_from_m=0.72,
        finger_joints=("panda_finger_joint1", "panda_finger_joint2"),
        finger_multipliers=(1.0, 1.0),
        driven_joints=("panda_finger_joint1", "panda_finger_joint2"),
        finger_open=0.04,
        finger_closed=0.0,
        finger_squeeze=0.01,
        finger_links=("panda_leftfinger", "panda_rightfinger"),
        finger_outwards_y=(1.0, -1.0),
        joint_acceleration_rad_s2=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
        arm_stiffness=1e3,
        arm_damping=1e2,
        arm_force_limit=100.0,
        gripper_stiffness=1e3,
        gripper_damping=1e2,
        gripper_force_limit=100.0,
    ),
    "xarm6": _xarm("xarm6", (10.0, 8.0, 8.0, 12.0, 12.0, 12.0)),
    "xarm7": _xarm("xarm7", (10.0, 8.0, 10.0, 8.0, 12.0, 12.0, 12.0)),
    "widowx_ai": RobotSpec(
        embodiment=EMBODIMENTS["widowx_ai"],
        base_link="base_link",
        tcp_link="tool_centre",
        base_position_m=(-0.28, 0.0, 0.0),
        lean_from_m=0.46,
        lean_above_m=0.15,
        finger_joints=("right_carriage_joint", "left_carriage_joint"),
        finger_multipliers=(1.0, 1.0),
        driven_joints=("left_carriage_joint", "right_carriage_joint"),
        finger_open=0.044,
        finger_closed=0.0,
        finger_squeeze=0.01,
        finger_links=("gripper_left", "gripper_right"),
        finger_outwards_y=(1.0, -1.0),
        joint_acceleration_rad_s2=(12.0, 12.0, 12.0, 20.0, 20.0, 20.0),
        slide_pace=0.5,
        slide_gripper=0.3,
        turn_pace=0.6,
        stand_first=(-0.04, -0.25, 0.6),
        arm_stiffness=1e4,
        arm_damping=2e2,
        arm_force_limit=100.0,
        arm_armature=0.03,
        gripper_stiffness=4e3,
        gripper_damping=2e2,
        gripper_force_limit=200.0,
    ),
}
"""Robots that can be simulated. Adding one is adding an entry and its description."""


def get_robot(name: str) -> RobotSpec:
    """The simulator's description of a robot; UserError if there is none."""
    if name not in ROBOTS:
        raise UserError(f"robot {name!r} is not in the simulator; simulated robots: {', '.join(ROBOTS)}")
    return ROBOTS[name]
