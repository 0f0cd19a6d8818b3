"""The ManiSkill agent of a robot, made of its `robots.RobotSpec`.

All robots are one class of agent with one control mode: absolute joint targets for the arm and one number for the
gripper, whose fingers mirror each other. ManiSkill's own agents differ in control modes, gripper conventions and grasp
tests, and two of the four robots have none that would do (there is no xArm 7 with a two-finger gripper, and the
WidowX AI's commands its left finger twice). What they agree on is kept: the fingers' friction, the grasp test and the
Panda's drive gains.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import sapien
import torch
from mani_skill.agents.base_agent import BaseAgent
from mani_skill.agents.controllers import PDJointPosControllerConfig, PDJointPosMimicControllerConfig
from mani_skill.agents.registration import register_agent
from mani_skill.utils import common, sapien_utils
from mani_skill.utils.structs import Actor, Link, Pose

from blm.actors.sim.descriptions import description
from blm.actors.sim.robots import RobotSpec, get_robot
from blm.actors.sim.world import Geometry

CONTROL_MODE = "blm_joint_targets"
FINGER_FRICTION = 2.0
FINGER_PATCH_M = 0.1
LEVEL_STIFFNESS, LEVEL_DAMPING = 60.0, 1.0
"""Of the joints that keep pads parallel: a firm grip turns them by less than two degrees."""

_BUILDERS: dict[tuple[str, bool], Any] = {}
"""Parsed descriptions, by agent and whether there is a renderer to draw them."""


class TableArm(BaseAgent):
    """An arm with a two-finger gripper, described by `spec`."""

    spec: RobotSpec

    @property
    def _controller_configs(self) -> dict[str, dict[str, object]]:
        spec = self.spec
        arm = PDJointPosControllerConfig(
            list(spec.embodiment.joint_names),
            lower=None,
            upper=None,
            stiffness=spec.arm_stiffness,
            damping=spec.arm_damping,
            force_limit=spec.arm_force_limit,
            normalize_action=False,
        )
        leader, mirror = spec.driven_joints
        gripper = PDJointPosMimicControllerConfig(
            [leader, mirror],
            lower=None,
            upper=None,
            stiffness=spec.gripper_stiffness,
            damping=spec.gripper_damping,
            force_limit=spec.gripper_force_limit,
            normalize_action=False,
            mimic={mirror: {"joint": leader}},
        )
        return {CONTROL_MODE: {"arm": arm, "gripper": gripper}}

    def _load_articulation(self, initial_pose: sapien.Pose | None = None) -> None:
        """ManiSkill's, but a description is read once a process instead of at every rebuild of the scene."""
        built_for = (self.uid, self.scene.can_render())
        if built_for not in _BUILDERS:
            loader = self.scene.create_urdf_loader()
            loader.name = self.uid
            loader.fix_root_link = self.fix_root_link
            sapien_utils.apply_urdf_config(loader, sapien_utils.parse_urdf_config(self.urdf_config))
            _BUILDERS[built_for] = loader.parse(str(self.urdf_path))["articulation_builders"][0]
        builder = _BUILDERS[built_for]
        builder.set_scene(self.scene)
        builder.scene_idxs = None
        builder.initial_pose = initial_pose
        self.robot = builder.build()
        self.robot_link_names = [link.name for link in self.robot.get_links()]

    def set_action(self, action: torch.Tensor) -> None:
        """Targets of the arm's joints in rad, then the gripper in [-1 closed, 1 open] as in ManiSkill."""
        command = action.clone()
        command[..., -1] = self.spec.finger_command(0.5 * (float(action[..., -1]) + 1.0))
        super().set_action(command)

    def _after_init(self) -> None:
        links = self.robot.links_map
        self.finger1_link, self.finger2_link = (links[name] for name in self.spec.finger_links)
        self.tcp = links[self.spec.tcp_link]
        joints = self.robot.active_joints_map
        for name, joint in joints.items():
            inertia = self.spec.finger_armature if name in self.spec.finger_joints else self.spec.arm_armature
            for copy in joint._objs:
                copy.set_armature(np.array([inertia], np.float32))
        self._levelled = []
        for name, other in self.spec.levelled_joints:
            joints[name].set_drive_properties(LEVEL_STIFFNESS, LEVEL_DAMPING)
            self._levelled.append((joints[name]._objs[0], int(joints[other].active_index[0])))

    def before_simulation_step(self) -> None:
        """As ManiSkill calls it; `physics.Physics` does without the controllers."""
        super().before_simulation_step()
        self.level_fingers()

    def level_fingers(self) -> None:
        """Closes the loop of parallelogram fingers. Every simulation step, as the coupling is part of the hand.

        SAPIEN's own coupling of a joint with its parent's (a tendon) pushes the wrong way under load, and
        constraints that close the loop cost more than the whole arm.
        """
        if self._levelled:
            positions = self.robot._objs[0].qpos
            for joint, other in self._levelled:
                joint.set_drive_target(-positions[other])

    def is_grasping(self, object: Actor, min_force: float = 0.5, max_angle: float = 85) -> torch.Tensor:
        """Whether both fingers press on an object, with at least that force (N) within that angle (degrees).

        One pass over the contacts: every task asks at every step. On a GPU, one answer a copy.
        """
        if self.scene.gpu_sim_enabled:
            return self._are_grasping(object, min_force, max_angle)
        touched = object._bodies[0].entity
        links = (self.finger1_link, self.finger2_link)
        fingers = [link._bodies[0].entity for link in links]
        impulses = np.zeros((2, 3))
        for contact in self.scene.px.get_contacts():
            pair = [body.entity for body in contact.bodies]
            if touched not in pair:
                continue
            other = pair[1 - pair.index(touched)]
            if other in fingers:
                # An impulse acts on the first of the pair.
                sign = 1.0 if pair[0] == other else -1.0
                impulses[fingers.index(other)] += sign * np.sum([point.impulse for point in contact.points], axis=0)
        forces = impulses / self.scene.px.timestep
        pressing = (
            _presses(link, outwards_y, force, min_force, max_angle)
            for link, outwards_y, force in zip(links, self.spec.finger_outwards_y, forces, strict=True)
        )
        return torch.tensor([all(pressing)])

    def _are_grasping(self, object: Actor, min_force: float, max_angle: float) -> torch.Tensor:
        answers = []
        for link, outwards_y in zip((self.finger1_link, self.finger2_link), self.spec.finger_outwards_y, strict=True):
            force = self.scene.get_pairwise_contact_forces(link, object)
            outwards = outwards_y * link.pose.to_transformation_matrix()[..., :3, 1]
            angle = torch.rad2deg(common.compute_angle_between(outwards, force))
            answers.append((torch.linalg.norm(force, dim=1) >= min_force) & (angle <= max_angle))
        return answers[0] & answers[1]

    def is_static(self, threshold: float = 0.2) -> torch.Tensor:
        """Whether every joint of the arm is slower than that (rad/s)."""
        speed = self.robot.get_qvel()[..., : self.spec.embodiment.arm_dof].abs()
        return speed.max(dim=1).values <= threshold

    @property
    def tcp_pos(self) -> torch.Tensor:
        """Position of the tool centre."""
        return self.tcp.pose.p

    @property
    def tcp_pose(self) -> Pose:
        """Pose of the tool centre."""
        return self.tcp.pose


def _presses(link: Link, outwards_y: float, force: npt.NDArray[np.float64], min_force: float, max_angle: float) -> bool:
    """Whether a force is strong enough and points away from the other finger, as in ManiSkill's own agents."""
    strength = float(np.linalg.norm(force))
    if strength < min_force:
        return False
    outwards = outwards_y * link._objs[0].entity_pose.to_transformation_matrix()[:3, 1]
    cosine = np.clip(outwards @ force / strength, -1.0, 1.0)
    return bool(np.rad2deg(np.arccos(cosine)) <= max_angle)


@cache
def agent_uid(robot: str, geometry: Geometry) -> str:
    """Registers the robot with ManiSkill (once a process) and returns the uid it has there."""
    spec = get_robot(robot)
    uid = f"blm_{robot}_{geometry}"
    touch = {"material": "gripper", "patch_radius": FINGER_PATCH_M, "min_patch_radius": FINGER_PATCH_M}
    friction = {"static_friction": FINGER_FRICTION, "dynamic_friction": FINGER_FRICTION, "restitution": 0.0}
    members = {
        "uid": uid,
        "spec": spec,
        "urdf_path": str(description(robot, geometry)),
        "urdf_config": {"_materials": {"gripper": friction}, "link": dict.fromkeys(spec.finger_links, touch)},
    }
    register_agent()(type(f"Blm{robot.title()}{geometry.title()}".replace("_", ""), (TableArm,), members))
    return uid
