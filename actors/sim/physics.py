"""The inner loop: one control step and the state of a scene, straight on SAPIEN's bodies.

ManiSkill's `step` and `get_state` work on batches of tensors; for one scene on a CPU that wrapping costs several times
the physics it wraps. These do the same to the same bodies in the same order and give the same numbers, bit for bit.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from blm.actors.sim.agents import TableArm

Float32 = npt.NDArray[np.float32]

_STILL = np.zeros(6, np.float32)


class Physics:
    """One built scene. A rebuilt scene has other bodies and needs another one of these."""

    def __init__(self, scene: Any) -> None:
        """`scene`: a `scenes.CellScene` on the CPU, after a reset."""
        agent: TableArm = scene.agent
        self._agent = agent
        self._system = scene.scene.px
        self._substeps: int = scene._sim_steps_per_control
        self._spec = agent.spec
        joints = agent.robot.active_joints_map
        self._arm_joints = [joints[name]._objs[0] for name in agent.spec.embodiment.joint_names]
        self._finger_joints = [joints[name]._objs[0] for name in agent.spec.driven_joints]
        self._robot = agent.robot._objs[0]
        self._root = self._robot.root
        self._tool = agent.tcp._objs[0]
        registry = scene.scene.state_dict_registry
        assert list(registry.articulations.values()) == [agent.robot], "the robot is all that has joints"
        self._bodies = []
        for actor in registry.actors.values():
            if actor.px_body_type == "static":
                continue
            body = actor._bodies[0] if actor.px_body_type == "dynamic" else None
            self._bodies.append((actor._objs[0], body))

    def step(self, arm_rad: Float32, gripper: float) -> None:
        """One control step: joint targets [n] and a gripper command in [0 closed, 1 open]."""
        for joint, target in zip(self._arm_joints, arm_rad, strict=True):
            joint.set_drive_target(target)
        finger = np.float32(self._spec.finger_command(gripper))
        for joint in self._finger_joints:
            joint.set_drive_target(finger)
        levelled = bool(self._spec.levelled_joints)
        for _ in range(self._substeps):
            if levelled:
                self._agent.level_fingers()
            self._system.step()

    def joint_positions(self) -> Float32:
        """Of all joints, the arm's first, [n + fingers]."""
        return self._robot.qpos

    def tool_position(self) -> Float32:
        """Of the tool centre in world metres, [3]."""
        return self._tool.entity_pose.p

    def tool_matrix(self) -> npt.NDArray[np.float64]:
        """Pose of the tool centre in the world, float64 [4,4]."""
        return self._tool.entity_pose.to_transformation_matrix().astype(np.float64)

    def state(self) -> Float32:
        """The vector that ManiSkill's `get_state` gives, float32 [D]."""
        parts: list[Float32] = []
        for entity, body in self._bodies:
            pose = entity.pose
            parts += [pose.p, pose.q]
            parts += [_STILL] if body is None else [body.linear_velocity, body.angular_velocity]
        pose = self._root.entity_pose
        parts += [pose.p, pose.q, self._root.linear_velocity, self._root.angular_velocity]
        parts += [self._robot.qpos, self._robot.qvel]
        return np.concatenate(parts, dtype=np.float32)
