"""Many copies of one cell in one scene, on a GPU: ManiSkill's GPU simulation with the same scenes as on the CPU.

A seed's scene is made by `CellEnv` on the CPU and its state copied over, so that seed 1,000,003 is the same scene on
either backend. What follows is not the same: PhysX on a GPU adds up in another order, and differently from run to run.
So results name their backend and are never mixed. Physics alone: whoever wants pictures has a `CellEnv` draw states.

With device "cpu" there is one copy, and the same code runs without a GPU.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sapien import physx

from blm.actors.sim.env import CellEnv
from blm.actors.sim.robots import get_robot
from blm.actors.sim.scenes import Device
from blm.actors.sim.spawn import STOCK, Spawn
from blm.actors.sim.task_scenes import SCENES
from blm.actors.sim.world import Cell, Geometry
from blm.model.embodiments import GRIPPER_CLOSED, GRIPPER_OPEN
from blm.model.errors import UserError

Float32 = npt.NDArray[np.float32]


class ManyCells:
    """N copies. Shapes as in `CellEnv`, with N in front."""

    def __init__(
        self, cell: Cell, *, copies: int, geometry: Geometry = "lite", spawn: Spawn = STOCK, device: Device = "cuda"
    ) -> None:
        """UserError without CUDA, and for robots that only the CPU simulates."""
        self._spec = get_robot(cell.robot)
        if device == "cuda":
            if not torch.cuda.is_available():
                raise UserError("simulating on a GPU needs CUDA, which PyTorch does not find here; simulate on the CPU")
            if self._spec.levelled_joints:
                raise UserError(f"{cell.robot}: its fingers are levelled at every simulation step, on the CPU alone")
            if not physx.is_gpu_enabled():
                physx.enable_gpu()  # before anything else of PhysX in a process, the CPU's simulator too
        assert device == "cuda" or copies == 1, "the CPU simulates one copy"
        self.cell, self.copies = cell, copies
        self._first = CellEnv(cell, geometry=geometry, spawn=spawn)
        self._scene = SCENES[cell.task](
            cell=cell, geometry=geometry, render=False, spawn=spawn, copies=copies, device=device
        )
        robot = cell.embodiment
        self._lower = np.array([*robot.joint_lower_rad, GRIPPER_CLOSED], np.float32)
        self._upper = np.array([*robot.joint_upper_rad, GRIPPER_OPEN], np.float32)
        self._find_joints()

    def _find_joints(self) -> None:
        robot = self._scene.agent.robot
        names = (*self._spec.embodiment.joint_names, *self._spec.driven_joints)
        self._driven = [robot.active_joints_map[name] for name in names]

    def reset(self, seeds: Sequence[int]) -> None:
        """The scenes of at most N seeds; further copies repeat the last one."""
        assert 1 <= len(seeds) <= self.copies, f"{len(seeds)} seeds for {self.copies} copies"
        states = []
        for seed in seeds:
            self._first.reset(seed)
            states.append(self._first.state())
        states += [states[-1]] * (self.copies - len(seeds))
        if not self._scene.gpu_sim_enabled:  # a rebuilt scene has no past; on a GPU that takes too long
            self._scene.reset(seed=seeds[0], options={"reconfigure": True})
            self._find_joints()
        self._scene.set_state(torch.from_numpy(np.stack(states)).to(self._scene.device))
        robot = self._scene.agent.robot
        robot.set_joint_drive_targets(robot.get_qpos(), robot.active_joints)
        self._aim()

    def step(self, actions: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """One control step of all copies towards actions [N,A]. Returns success right now, [N]."""
        commands = np.minimum(np.maximum(np.asarray(actions, np.float32), self._lower), self._upper)
        finger = np.asarray(self._spec.finger_command(commands[:, -1:].astype(np.float64)), np.float32)
        targets = np.concatenate([commands[:, :-1], finger, finger], axis=1)
        scene = self._scene
        scene.agent.robot.set_joint_drive_targets(torch.from_numpy(targets).to(scene.device), self._driven)
        self._aim()
        for _ in range(scene._sim_steps_per_control):
            if not scene.gpu_sim_enabled:
                scene.agent.level_fingers()
            scene.scene.step()
        if scene.gpu_sim_enabled:
            scene.scene._gpu_fetch_all()
        return _numpy(scene.evaluate()["success"]).astype(bool)

    def _aim(self) -> None:
        """Drive targets are buffered on a GPU."""
        if self._scene.gpu_sim_enabled:
            self._scene.scene.px.gpu_apply_articulation_target_position()

    def states(self) -> Float32:
        """The simulator states [N,D]."""
        return _numpy(self._scene.get_state())

    def proprio(self) -> Float32:
        """Proprioception [N,S]."""
        dof = self.cell.embodiment.arm_dof
        qpos = _numpy(self._scene.agent.robot.get_qpos())
        opened = [self._spec.gripper_opening(row[dof:]) for row in qpos]
        return np.concatenate([qpos[:, :dof], np.array(opened)[:, None]], axis=1).astype(np.float32)

    def object_positions(self) -> Float32:
        """Tool centre, object and goal in world metres, [N,9]."""
        scene = self._scene
        tool, thing = _numpy(scene.agent.tcp.pose.p), _numpy(scene.task_object.pose.p)
        goal = _numpy(scene.task_goal.pose.p) + np.asarray(scene.goal_offset_m, np.float32)
        if scene.goal_attr == scene.object_attr:  # the spot on the table under it
            goal[:, 2] = 0.0
        return np.concatenate([tool, thing, goal], axis=1)

    def close(self) -> None:
        """Free the simulators."""
        self._first.close()
        self._scene.close()


def _numpy(values: torch.Tensor) -> Float32:
    return values.detach().cpu().numpy()
