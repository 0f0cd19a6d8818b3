"""One cell, simulated: reset to a seed, step at 20 Hz, read and restore the state, and render when asked.

Without cameras there is no renderer at all and a control step costs well under a millisecond; with cameras
nothing is drawn until `render` is called. Plain object, no Ray; not thread-safe; a process can hold several.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sapien
import torch
from mani_skill.utils import sapien_utils

from blm.actors.sim.cameras import CAMERAS
from blm.actors.sim.robots import get_robot
from blm.actors.sim.scenes import SCENES
from blm.actors.sim.world import Cell, Geometry, require_simulated
from blm.model.embodiments import GRIPPER_CLOSED, GRIPPER_OPEN, suggest
from blm.model.errors import UserError

Float32 = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

SHADER = Path(__file__).parent / "assets/shader"
BACKGROUND_GREY = 150

OBJECT_POSITION_NAMES = tuple(f"{thing}.{axis}_m" for thing in ("tcp", "object", "goal") for axis in "xyz")
"""Names of the nine values of `CellEnv.object_positions`."""


class CellEnv:
    """A robot on a task.

    Shapes: A action, S proprioception (both of the embodiment), D simulator state (poses and velocities of
    the object, the goal and the robot, then joint positions and velocities).
    """

    def __init__(
        self,
        cell: Cell,
        *,
        cameras: Sequence[str] = (),
        image_px: int = 112,
        geometry: Geometry = "lite",
    ) -> None:
        """UserError for a cell that cannot be simulated, an unknown camera or a machine without Vulkan."""
        require_simulated(cell)
        for camera in cameras:
            if camera not in CAMERAS:
                raise UserError(f"unknown camera {camera!r}; {suggest(camera, CAMERAS)}")
        self.cell = cell
        self.embodiment = cell.embodiment
        self.geometry = geometry
        self.image_px = image_px
        self._robot = get_robot(cell.robot)
        self._lower = np.array([*self.embodiment.joint_lower_rad, GRIPPER_CLOSED], np.float32)
        self._upper = np.array([*self.embodiment.joint_upper_rad, GRIPPER_OPEN], np.float32)
        self._scene = SCENES[cell.task](cell=cell, geometry=geometry, render=bool(cameras))
        self._stepped = False
        self._cameras = {name: self._add_camera(name) for name in cameras}

    def _add_camera(self, name: str) -> sapien.render.RenderCameraComponent:
        spec = CAMERAS[name]
        sapien.render.set_camera_shader_dir(str(SHADER))
        sapien.render.set_picture_format("Color", "r8g8b8a8unorm")
        side_px = 2 * self.image_px  # see _finish
        camera = self._scene.scene.sub_scenes[0].add_camera(name, side_px, side_px, spec.fov_rad, near=0.05, far=5.0)
        camera.entity.set_pose(sapien_utils.look_at(spec.eye_m, spec.target_m).sp)
        return camera

    # ---- running
    # ----------------------------------------------------------------------------------------------

    def reset(self, seed: int, *, rebuild: bool = True) -> None:
        """Starts the episode of that seed: ManiSkill's own randomisation, the same state every time.

        PhysX remembers contacts beyond a reset, so the same actions from the same state could end a little
        differently depending on what was simulated before. A rebuilt scene (12 ms) has no past: everything
        that follows depends on the seed and the actions alone. `rebuild=False` (2 ms) is for scenes that are
        only looked at.
        """
        self._scene.reset(seed=int(seed), options={"reconfigure": rebuild})
        self._stepped = False
        if rebuild:
            self._cameras = {name: self._add_camera(name) for name in self._cameras}

    def step(self, action: npt.ArrayLike) -> bool:
        """One control step towards an action [A], clipped to the robot's limits. Returns success right now.

        ValueError if the action has another shape or is not finite.
        """
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (self.embodiment.action_dim,) or not np.isfinite(action).all():
            size = self.embodiment.action_dim
            raise ValueError(f"an action of {self.embodiment.name} is {size} finite numbers, not {action}")
        command = np.clip(action, self._lower, self._upper)
        command[-1] = 2.0 * command[-1] - 1.0  # ManiSkill's gripper controller takes [-1, 1]
        self._scene.step(torch.from_numpy(command))
        self._stepped = True
        return self.success()

    def success(self) -> bool:
        """Whether the task is done in the present state."""
        return bool(self._scene.evaluate()["success"].item())

    # ---- state
    # ------------------------------------------------------------------------------------------------

    def state(self) -> Float32:
        """The whole simulator state, float32 [D]."""
        return self._scene.get_state()[0].numpy().astype(np.float32)

    def set_state(self, state: npt.ArrayLike) -> None:
        """Restores a state [D]; `render` and all readings follow at once."""
        self._scene.set_state(torch.from_numpy(np.asarray(state, dtype=np.float32))[None])
        self._hold_still()

    def set_joints(self, arm_rad: npt.ArrayLike, gripper: float) -> None:
        """Puts the arm [n] and the gripper (0 closed, 1 open) there at once, at rest. For composing."""
        fingers = [gripper * self._robot.finger_open_m] * 2
        qpos = torch.tensor([*np.asarray(arm_rad, dtype=np.float32), *fingers], dtype=torch.float32)[None]
        self._scene.agent.robot.set_qpos(qpos)
        self._scene.agent.robot.set_qvel(torch.zeros_like(qpos))
        self._hold_still()

    def _hold_still(self) -> None:
        """Drive targets and contacts are not part of a state: aim the drives at where the joints are."""
        self._stepped = False
        self._scene.agent.controller.reset()
        self._scene.agent.robot.set_joint_drive_targets(
            self._scene.agent.robot.get_qpos(), self._scene.agent.robot.active_joints
        )

    def proprio(self) -> Float32:
        """Proprioception, float32 [S]: arm joints in rad, then the gripper's opening in [0, 1]."""
        qpos = self._scene.agent.robot.get_qpos()[0].numpy()
        arm, fingers = qpos[: self.embodiment.arm_dof], qpos[self.embodiment.arm_dof :]
        opening = np.clip(fingers.mean() / self._robot.finger_open_m, GRIPPER_CLOSED, GRIPPER_OPEN)
        return np.append(arm, opening).astype(np.float32)

    def object_positions(self) -> Float32:
        """Tool centre, object and goal in world metres, float32 [9] (`OBJECT_POSITION_NAMES`)."""
        points = (self._scene.agent.tcp.pose.p, self._scene.task_object.pose.p, self._scene.task_goal.pose.p)
        return np.concatenate([point[0].numpy() for point in points]).astype(np.float32)

    def tool_pose(self) -> npt.NDArray[np.float64]:
        """Pose of the tool centre in the world, float64 [4,4]."""
        return self._scene.agent.tcp.pose.to_transformation_matrix()[0].numpy().astype(np.float64)

    def holding(self) -> bool:
        """Whether both fingers press on the object. Forces are known only after a step: False before."""
        return self._stepped and bool(self._scene.agent.is_grasping(self._scene.task_object).item())

    def object_yaw_rad(self) -> float:
        """Turn of the object about the vertical."""
        w, x, y, z = self._scene.task_object.pose.q[0].tolist()
        return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))

    # ---- pictures
    # ---------------------------------------------------------------------------------------------

    def render(self) -> dict[str, Picture]:
        """Pictures of the present state from every camera, uint8 [H,W,3] each. Empty without cameras."""
        if self._cameras:
            self._scene.place_markers()
            self._scene.scene.sub_scenes[0].update_render()
        pictures = {}
        for name, camera in self._cameras.items():
            camera.take_picture()
            pictures[name] = _finish(camera.get_picture("Color"))
        return pictures

    def close(self) -> None:
        """Frees the simulator. The object cannot be used afterwards."""
        self._cameras = {}
        self._scene.close()


def _finish(picture: Picture) -> Picture:
    """RGBA [2H,2W,4] as drawn -> RGB [H,W,3]: a background where nothing was drawn, then the mean of 2 by 2 pixels.

    The mean keeps what a small object's edge says about its place between two pixels.
    """
    drawn = np.where(picture[..., 3:] > 0, picture[..., :3], np.uint8(BACKGROUND_GREY)).astype(np.uint16)
    rows = drawn[0::2] + drawn[1::2]
    return ((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8)
