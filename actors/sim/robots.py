"""The simulator's side of a robot: its description, where it stands, how its joints are driven.

A `RobotSpec` is data; `agent_uid` turns it into a ManiSkill agent. All robots share one control mode:
absolute joint targets for the arm, one number for the gripper whose second finger mirrors the first. Drive
gains and finger friction are those of ManiSkill's own agents, so demonstrations and policies carry over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mani_skill
from mani_skill.agents.base_agent import BaseAgent
from mani_skill.agents.controllers import PDJointPosControllerConfig, PDJointPosMimicControllerConfig
from mani_skill.agents.registration import register_agent
from mani_skill.agents.robots.panda import Panda

from blm.actors.sim.world import Geometry
from blm.model.embodiments import EMBODIMENTS, Embodiment
from blm.model.errors import UserError

ASSETS = Path(__file__).parent / "assets"
CONTROL_MODE = "blm_joint_targets"


@dataclass(frozen=True, kw_only=True, slots=True)
class RobotSpec:
    """What the simulator and the planner need to know beyond the embodiment."""

    embodiment: Embodiment
    """Names, limits and rest posture."""
    agent: type[BaseAgent]
    """ManiSkill agent that lends its links, grasp test and finger friction."""
    urdf: dict[Geometry, Path]
    """Robot description per geometry; an SRDF of the same name lies beside it."""
    packages: dict[Geometry, Path]
    """Folder against which the description's mesh paths are resolved."""
    base_link: str
    """First link of the arm's chain."""
    tcp_link: str
    """Tool centre point: between the finger pads, z out of the hand, y along the closing direction."""
    base_position_m: tuple[float, float, float]
    """Where the base stands in the world."""
    finger_joints: tuple[str, str]
    """The driven finger, then the one that mirrors it."""
    finger_open_m: float
    """Position of each finger joint when the gripper is open; 0 is closed."""
    finger_squeeze_m: float
    """How far beyond closed the fingers are commanded, so that they press on thin objects."""
    joint_acceleration_rad_s2: tuple[float, ...]
    """Greatest acceleration of each arm joint that a planned motion may ask for."""
    stiffness: float
    """Position gain of every drive."""
    damping: float
    """Velocity gain of every drive."""
    force_limit: float
    """Greatest force (N) or torque (N m) of every drive."""


def _official_panda() -> Path:
    return Path(mani_skill.__file__).parent / "assets/robots/panda/panda_v2.urdf"


ROBOTS: dict[str, RobotSpec] = {
    "panda": RobotSpec(
        embodiment=EMBODIMENTS["panda"],
        agent=Panda,
        urdf={"lite": ASSETS / "panda/panda.urdf", "official": _official_panda()},
        packages={"lite": ASSETS / "panda", "official": _official_panda().parent},
        base_link="panda_link0",
        tcp_link="panda_hand_tcp",
        base_position_m=(-0.615, 0.0, 0.0),
        finger_joints=("panda_finger_joint1", "panda_finger_joint2"),
        finger_open_m=0.04,
        finger_squeeze_m=0.01,
        joint_acceleration_rad_s2=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
        stiffness=1e3,
        damping=1e2,
        force_limit=100.0,
    ),
}
"""Robots that can be simulated. Adding one is adding an entry and its description."""


def get_robot(name: str) -> RobotSpec:
    """The simulator's description of a robot; UserError if there is none."""
    if name not in ROBOTS:
        raise UserError(f"robot {name!r} is not in the simulator; simulated robots: {', '.join(ROBOTS)}")
    return ROBOTS[name]


def _controller_configs(spec: RobotSpec) -> Callable[[BaseAgent], dict[str, dict[str, object]]]:
    drive = {"stiffness": spec.stiffness, "damping": spec.damping, "force_limit": spec.force_limit}

    def configs(_: BaseAgent) -> dict[str, dict[str, object]]:
        arm = PDJointPosControllerConfig(
            list(spec.embodiment.joint_names), lower=None, upper=None, normalize_action=False, **drive
        )
        leader, mirror = spec.finger_joints
        gripper = PDJointPosMimicControllerConfig(
            [leader, mirror],
            lower=-spec.finger_squeeze_m,
            upper=spec.finger_open_m,
            mimic={mirror: {"joint": leader}},
            **drive,
        )
        return {CONTROL_MODE: {"arm": arm, "gripper": gripper}}

    return configs


@cache
def agent_uid(robot: str, geometry: Geometry) -> str:
    """Registers the robot with ManiSkill (once a process) and returns the uid it has there."""
    spec = get_robot(robot)
    urdf = spec.urdf[geometry]
    if not urdf.is_file():
        raise UserError(f"robot {robot}: no {geometry} description at {urdf}; use geometry 'lite'")
    uid = f"blm_{robot}_{geometry}"
    members = {
        "uid": uid,
        "urdf_path": str(urdf),
        "_controller_configs": property(_controller_configs(spec)),
    }
    register_agent()(type(f"Blm{robot.title()}{geometry.title()}", (spec.agent,), members))
    return uid
