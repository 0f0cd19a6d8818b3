"""The six tasks over ManiSkill's own classes: which of their things is the object, where the goal is, what is drawn.

The goal, as `CellEnv.object_positions` gives it, is always a place that the picture shows: the middle of the target
on the table (PushCube, PullCube), of the ball in the air (PickCube), of the lower cube's top face (StackCube), of the
bin's floor (PlaceSphere). A peg may stand anywhere (LiftPegUpright): its goal is the spot on the table under its
middle, which is where the demonstrations stand it.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import sapien
from mani_skill.envs.tasks.tabletop.lift_peg_upright import LiftPegUprightEnv
from mani_skill.envs.tasks.tabletop.pick_cube import PickCubeEnv
from mani_skill.envs.tasks.tabletop.place_sphere import PlaceSphereEnv
from mani_skill.envs.tasks.tabletop.pull_cube import PullCubeEnv
from mani_skill.envs.tasks.tabletop.push_cube import PushCubeEnv
from mani_skill.envs.tasks.tabletop.stack_cube import StackCubeEnv

from blm.actors.sim.scenes import SURE_M, CellScene, position

PLUMB_RGBA = (0.0, 0.45, 0.15, 1.0)
POLE_HALF_M = (0.004, 0.004, 0.165)
FOOT_HALF_M = (0.025, 0.025, 0.001)


class PushCubeScene(CellScene, PushCubeEnv):
    """A cube to be pushed into a round target on the table."""

    object_attr = "obj"
    goal_attr = "goal_region"
    spawned = (("obj", "goal_region"),)
    spawn_centres_m = ((0.1, 0.0),)

    def surely_undone(self) -> bool:
        across_m, _ = self._apart_m()
        return across_m > self.goal_radius + SURE_M


class PullCubeScene(CellScene, PullCubeEnv):
    """A cube to be pulled into a round target nearer to the robot."""

    object_attr = "obj"
    goal_attr = "goal_region"
    spawned = (("obj", "goal_region"),)
    spawn_centres_m = ((-0.1, 0.0),)

    def surely_undone(self) -> bool:
        across_m, _ = self._apart_m()
        return across_m > self.goal_radius + SURE_M


class PickCubeScene(CellScene, PickCubeEnv):
    """A cube to be grasped and held at a ball in the air."""

    object_attr = "cube"
    goal_attr = "goal_site"
    spawned = (("cube",), ("goal_site",))

    def _load_scene(self, options: dict[str, Any]) -> None:
        super()._load_scene(options)
        self._markers: list[sapien.Entity] = []
        if not self.scene.can_render():
            return
        material = sapien.render.RenderMaterial(base_color=PLUMB_RGBA, roughness=0.9, specular=0.0)
        pole, foot = sapien.render.RenderBodyComponent(), sapien.render.RenderBodyComponent()
        pole.attach(sapien.render.RenderShapeBox(POLE_HALF_M, material))
        foot.attach(sapien.render.RenderShapeBox(FOOT_HALF_M, material))
        for body in (pole, foot):
            marker = sapien.Entity()
            marker.add_component(body)
            self.scene.sub_scenes[0].add_entity(marker)
            self._markers.append(marker)

    def place_markers(self) -> None:
        x, y, z = position(self.goal_site).tolist()
        pole, foot = self._markers
        # The pole hangs from the ball; what is longer than the ball is high sinks into the table unseen.
        pole.set_pose(sapien.Pose((x, y, z - POLE_HALF_M[2])))
        foot.set_pose(sapien.Pose((x, y, 0.0)))

    def surely_undone(self) -> bool:
        return math.hypot(*self._apart_m()) > self.goal_thresh + SURE_M

    def goal_ring(self) -> tuple[npt.NDArray[np.float32], float]:
        return self.goal_position(), self.goal_thresh


class StackCubeScene(CellScene, StackCubeEnv):
    """A red cube to be set down on a green one and let go."""

    object_attr = "cubeA"
    goal_attr = "cubeB"
    goal_offset_m = (0.0, 0.0, 0.02)
    spawned = (("cubeA", "cubeB"),)

    def surely_undone(self) -> bool:
        (across_m, above_m), edge_m = self._apart_m(), 2 * self.goal_offset_m[2]
        return across_m > edge_m * math.sqrt(0.5) + 0.005 + SURE_M or abs(above_m - edge_m) > 0.005 + SURE_M


class PlaceSphereScene(CellScene, PlaceSphereEnv):
    """A ball to be set down in a shallow bin and let go."""

    object_attr = "obj"
    goal_attr = "bin"
    goal_offset_m = (0.0, 0.0, PlaceSphereEnv.short_side_half_size)
    spawned = (("obj", "bin"),)
    spawn_centres_m = ((-0.0125, 0.0),)

    def surely_undone(self) -> bool:
        across_m, above_m = self._apart_m()
        misses_m = max(across_m, abs(above_m - self.radius - self.block_half_size[0]))
        return misses_m > 0.005 + SURE_M


class LiftPegUprightScene(CellScene, LiftPegUprightEnv):
    """A peg lying on the table to be stood on its end."""

    object_attr = "peg"
    goal_attr = "peg"
    spawned = (("peg",),)

    def goal_position(self) -> npt.NDArray[np.float32]:
        goal_m = position(self.peg)
        goal_m[2] = 0.0
        return goal_m

    def surely_undone(self) -> bool:
        height_m = position(self.peg).tolist()[2]
        return abs(height_m - self.peg_half_length) > 0.005 + SURE_M

    def place_goal(self, position_m: npt.ArrayLike) -> None:
        """Nothing to put: the goal is under the peg, wherever that is."""


SCENES: dict[str, type[CellScene]] = {
    "PushCube": PushCubeScene,
    "PickCube": PickCubeScene,
    "PullCube": PullCubeScene,
    "StackCube": StackCubeScene,
    "PlaceSphere": PlaceSphereScene,
    "LiftPegUpright": LiftPegUprightScene,
}
"""Simulated tasks, by the names of `tasks.TASKS`."""
