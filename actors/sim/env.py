"""One cell, simulated: reset to a seed, step at 20 Hz, read and restore the state, and render when asked.

Without cameras there is no renderer at all and a control step costs well under a millisecond; with cameras
nothing is drawn until `render` is called. Plain object, no Ray; not thread-safe; a process can hold several.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from mani_skill.utils.structs import Actor

from blm.actors.sim.cameras import CameraSpec
from blm.actors.sim.episode import Episode
from blm.actors.sim.look import Look
from blm.actors.sim.physics import Physics
from blm.actors.sim.robots import get_robot
from blm.actors.sim.scenes import position
from blm.actors.sim.spawn import STOCK, Spawn
from blm.actors.sim.task_scenes import SCENES
from blm.actors.sim.viewing import Picture, Viewer, known_camera
from blm.actors.sim.world import Cell, Geometry, parse_cell
from blm.model.embodiments import GRIPPER_CLOSED, GRIPPER_OPEN

Float32 = npt.NDArray[np.float32]

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
        cameras: Sequence[str | CameraSpec] = (),
        image_px: int = 112,
        geometry: Geometry = "lite",
        spawn: Spawn = STOCK,
    ) -> None:
        """cameras: names of known ones, or cameras of one's own. spawn: other regions than the cell's.

        UserError for a cell that cannot be simulated, an unknown camera, one that would see nothing, or a machine
        without Vulkan.
        """
        self._specs = tuple(known_camera(camera) for camera in cameras)
        self.cell = cell
        self.embodiment = cell.embodiment
        self.geometry = geometry
        self.image_px = image_px
        self._robot = get_robot(cell.robot)
        self._lower = np.array([*self.embodiment.joint_lower_rad, GRIPPER_CLOSED], np.float32)
        self._upper = np.array([*self.embodiment.joint_upper_rad, GRIPPER_OPEN], np.float32)
        self._scene = SCENES[cell.task](cell=cell, geometry=geometry, render=bool(cameras), spawn=spawn)
        self._physics = Physics(self._scene)
        self._stepped = False
        self._viewer = Viewer(self._scene, self._specs, image_px)

    @classmethod
    def of(cls, episode: Episode, present: Self | None = None) -> Self:
        """A simulator of an episode's cell and geometry, without cameras; `present` if that is one already."""
        if present is not None and (present.cell.name, present.geometry) == (episode.cell, episode.geometry):
            return present
        return cls(parse_cell(episode.cell), geometry=episode.geometry)

    # ---- running
    # ----------------------------------------------------------------------------------------------

    def reset(self, seed: int, *, rebuild: bool = True) -> None:
        """Starts the episode of that seed: ManiSkill's own randomisation, the same state every time.

        PhysX remembers contacts beyond a reset, so the same actions from the same state could end a little
        differently depending on what was simulated before. A rebuilt scene (5 ms) has no past: everything
        that follows depends on the seed and the actions alone. `rebuild=False` (2 ms) is for scenes that are
        only looked at.
        """
        self._scene.reset(seed=int(seed), options={"reconfigure": rebuild})
        self._stepped = False
        if rebuild:
            self._physics = Physics(self._scene)
            self._viewer = Viewer(self._scene, self._specs, self.image_px, self._viewer.look)

    def restart(self, seed: int, state: npt.ArrayLike) -> None:
        """Goes on from a state [D] of that seed's episode as if nothing had been simulated before it.

        What follows depends on the arguments and the actions alone, so whoever does the same sees the same.
        """
        self.reset(seed)
        if not np.array_equal(self.state(), np.asarray(state, dtype=np.float32)):
            self.set_state(state)

    def step(self, action: npt.ArrayLike) -> bool:
        """One control step towards an action [A], clipped to the robot's limits. Returns success right now.

        ValueError if the action has another shape or is not finite.
        """
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (self.embodiment.action_dim,) or not np.isfinite(action).all():
            size = self.embodiment.action_dim
            raise ValueError(f"an action of {self.embodiment.name} is {size} finite numbers, not {action}")
        command = np.minimum(np.maximum(action, self._lower), self._upper)
        self._physics.step(command[:-1], float(command[-1]))
        self._stepped = True
        return self.success()

    def success(self) -> bool:
        """Whether the task is done in the present state."""
        return not self._scene.surely_undone() and bool(self._scene.evaluate()["success"].item())

    # ---- state
    # ------------------------------------------------------------------------------------------------

    def state(self) -> Float32:
        """The whole simulator state, float32 [D]."""
        return self._physics.state()

    def set_state(self, state: npt.ArrayLike) -> None:
        """Restores a state [D]; `render` and all readings follow at once."""
        self._scene.set_state(torch.from_numpy(np.asarray(state, dtype=np.float32))[None])
        self._hold_still()

    def actor_names(self) -> tuple[str, ...]:
        """ManiSkill's names of the things whose states [13 each] begin a state, in order; the robot's comes last."""
        return tuple(self._scene.get_state_dict()["actors"])

    def set_joints(self, arm_rad: npt.ArrayLike, gripper: float) -> None:
        """Puts the arm [n] and the gripper (0 closed, 1 open) there at once, at rest. For composing."""
        fingers = self._robot.finger_positions(gripper)
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
        qpos = self._physics.joint_positions()
        arm, fingers = qpos[: self.embodiment.arm_dof], qpos[self.embodiment.arm_dof :]
        return np.append(arm, self._robot.gripper_opening(fingers)).astype(np.float32)

    def object_positions(self) -> Float32:
        """Tool centre, object and goal in world metres, float32 [9] (`OBJECT_POSITION_NAMES`).

        What a task's goal is, `task_scenes` says.
        """
        scene = self._scene
        return np.concatenate([self._physics.tool_position(), position(scene.task_object), scene.goal_position()])

    def tool_pose(self) -> npt.NDArray[np.float64]:
        """Pose of the tool centre in the world, float64 [4,4]."""
        return self._physics.tool_matrix()

    def holding(self) -> bool:
        """Whether both fingers press on the object. Forces are known only after a step: False before."""
        return self._stepped and bool(self._scene.agent.is_grasping(self._scene.task_object).item())

    def object_yaw_rad(self) -> float:
        """Turn of the object about the vertical."""
        return _yaw_rad(self._scene.task_object)

    def goal_yaw_rad(self) -> float:
        """Turn about the vertical of what marks the goal."""
        return _yaw_rad(self._scene.task_goal)

    def object_rotation(self) -> npt.NDArray[np.float64]:
        """Rotation of the object in the world, float64 [3,3]."""
        return self._scene.task_object.pose.to_transformation_matrix()[0, :3, :3].numpy().astype(np.float64)

    # ---- pictures
    # ---------------------------------------------------------------------------------------------

    def set_look(self, look: Look) -> None:
        """Draws all further pictures with this look, also of rebuilt scenes, until another is set (`look.PLAIN`).

        Takes a millisecond. What is simulated does not change. ValueError without cameras.
        """
        self._viewer.set_look(look)

    def render(self) -> dict[str, Picture]:
        """Pictures of the present state from every camera, uint8 [H,W,3] each. Empty without cameras."""
        return self._viewer.pictures()

    def viewer(self, cameras: Sequence[str | CameraSpec], image_px: int) -> Viewer:
        """More cameras in the scene as it is built now, of another size; the next `reset` ends them."""
        return Viewer(self._scene, [known_camera(camera) for camera in cameras], image_px)

    def close(self) -> None:
        """Frees the simulator. The object cannot be used afterwards."""
        del self._viewer
        self._scene.close()


def _yaw_rad(actor: Actor) -> float:
    w, x, y, z = actor.pose.q[0].tolist()
    return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
