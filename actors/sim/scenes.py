"""ManiSkill's tasks as simulated here: same physics, randomisation and success test, lighter to draw.

What differs from the stock environments, and why:
- our own agents (`robots.py`), so the rest posture and its noise are set here instead of in ManiSkill's table
  builder;
- goal markers are part of the picture: a policy that only sees has to see the goal. A goal in the air also
  gets a pole down to a square on the table, since one picture of a small ball tells its direction but hardly
  its distance;
- with `lite` geometry the table is drawn as one box and the floor not at all (the stock table has 20,000
  triangles, and drawing on a CPU costs by the triangle). Collision shapes stay as they are;
- no cameras of ManiSkill's own; `env.CellEnv` adds the ones asked for.
"""

from functools import cache
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.envs.tasks.tabletop.pick_cube import PickCubeEnv
from mani_skill.envs.tasks.tabletop.push_cube import PushCubeEnv
from mani_skill.utils.structs import Actor

from blm.actors.sim.robots import CONTROL_MODE, agent_uid, get_robot
from blm.actors.sim.world import Cell, Geometry
from blm.model.errors import UserError

REST_NOISE_RAD = 0.02
"""Standard deviation of the start posture, as in ManiSkill."""

TABLE_TOP_HALF_M = (0.6, 0.75, 0.02)
TABLE_TOP_CENTRE_M = (-0.1, 0.0, -0.02)
TABLE_RGBA = (0.62, 0.58, 0.52, 1.0)

PLUMB_RGBA = (0.0, 0.45, 0.15, 1.0)
POLE_HALF_M = (0.004, 0.004, 0.165)
FOOT_HALF_M = (0.025, 0.025, 0.001)


@cache
def open_renderer() -> tuple[str, sapien.render.RenderSystem]:
    """ManiSkill's name of the render backend, and SAPIEN's renderer held open for the life of the process.

    Holding it matters even when nothing is ever drawn: building an object makes a material, and SAPIEN opens
    Vulkan anew (50 to 200 ms) for each one while nothing else keeps it open. With it a scene is built in 13
    ms instead of 200. UserError on a machine without a Vulkan driver: SAPIEN cannot build objects there at
    all.
    """
    reasons = []
    for device, backend in (("cuda", "gpu"), ("cpu", "cpu")):
        try:
            return backend, sapien.render.RenderSystem(sapien.Device(device))
        except RuntimeError as error:
            reasons.append(f"{device}: {error}")
    raise UserError(f"the simulator finds no usable Vulkan driver ({'; '.join(reasons)}); run `blm doctor`")


class CellScene(BaseEnv):
    """Mixin over a ManiSkill task: places our robot and lightens the surroundings.

    object_attr and goal_attr name the attributes under which the task keeps its object and its goal marker.
    """

    object_attr: str
    goal_attr: str
    agent: Any
    scene: Any
    _sensors: dict[str, Any]
    _human_render_cameras: dict[str, Any]
    _hidden_objects: list[Any]

    def __init__(self, *, cell: Cell, geometry: Geometry, render: bool) -> None:
        backend, _ = open_renderer()
        self.cell = cell
        self.geometry = geometry
        self.SUPPORTED_ROBOTS = [agent_uid(cell.robot, geometry)]
        super().__init__(
            robot_uids=self.SUPPORTED_ROBOTS[0],
            robot_init_qpos_noise=REST_NOISE_RAD,
            control_mode=CONTROL_MODE,
            obs_mode="none",
            reward_mode="none",
            sim_backend="physx_cpu",
            render_backend=backend if render else "none",
        )

    @property
    def task_object(self) -> Actor:
        """The thing to move."""
        return getattr(self, self.object_attr)

    @property
    def task_goal(self) -> Actor:
        """The marker of where to move it."""
        return getattr(self, self.goal_attr)

    @property
    def _default_sensor_configs(self) -> list[Any]:
        return []

    @property
    def _default_human_render_camera_configs(self) -> list[Any]:
        return []

    def _clear(self) -> None:
        # As ManiSkill's, but without its full garbage collection: 170 ms at every rebuild, where the
        # automatic one does.
        self.agent = None
        self.scene = None
        self._sensors, self._human_render_cameras, self._hidden_objects = {}, {}, []

    def _load_lighting(self, options: dict[str, Any]) -> None:
        self.scene.set_ambient_light([0.4, 0.4, 0.4])
        self.scene.add_directional_light([0.6, 0.8, -1.0], [1.6, 1.6, 1.6], shadow=False)

    def _load_scene(self, options: dict[str, Any]) -> None:
        super()._load_scene(options)
        # Neither ever moves, so neither belongs in an episode's states.
        for fixture in (self.table_scene.table, self.table_scene.ground):
            self.remove_from_state_dict_registry(fixture)
        # Some tasks hide their goal marker from sensors. Ours must be seen.
        self._hidden_objects.clear()
        if self.geometry == "lite" and self.scene.can_render():
            self._draw_table_as_box()

    def _draw_table_as_box(self) -> None:
        for fixture in (self.table_scene.table, self.table_scene.ground):
            for entity in fixture._objs:
                drawn = entity.find_component_by_type(sapien.render.RenderBodyComponent)
                if drawn is not None:
                    entity.remove_component(drawn)
        builder = self.scene.create_actor_builder()
        material = sapien.render.RenderMaterial(base_color=TABLE_RGBA, roughness=0.9, specular=0.0)
        builder.add_box_visual(half_size=TABLE_TOP_HALF_M, material=material)
        builder.initial_pose = sapien.Pose(TABLE_TOP_CENTRE_M)
        self.remove_from_state_dict_registry(builder.build_kinematic(name="table-top"))

    def place_markers(self) -> None:
        """Moves what is drawn only as an aid to where the goal is now. Called before every picture."""

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict[str, Any]) -> None:
        super()._initialize_episode(env_idx, options)
        spec = get_robot(self.cell.robot)
        rest = [*spec.embodiment.rest_rad, spec.finger_open_m, spec.finger_open_m]
        noise = self._episode_rng.normal(0.0, REST_NOISE_RAD, (len(env_idx), len(rest)))
        noise[:, spec.embodiment.arm_dof :] = 0.0
        self.agent.reset(np.asarray(rest) + noise)
        self.agent.robot.set_pose(sapien.Pose(spec.base_position_m))


class PushCubeScene(CellScene, PushCubeEnv):
    """A cube to be pushed into a round target on the table."""

    object_attr = "obj"
    goal_attr = "goal_region"


class PickCubeScene(CellScene, PickCubeEnv):
    """A cube to be grasped and held at a ball in the air."""

    object_attr = "cube"
    goal_attr = "goal_site"

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
        x, y, z = self.goal_site.pose.p[0].tolist()
        pole, foot = self._markers
        # The pole hangs from the ball; what is longer than the ball is high sinks into the table unseen.
        pole.set_pose(sapien.Pose((x, y, z - POLE_HALF_M[2])))
        foot.set_pose(sapien.Pose((x, y, 0.0)))


SCENES: dict[str, type[CellScene]] = {"PushCube": PushCubeScene, "PickCube": PickCubeScene}
"""Simulated tasks, by the names of `tasks.TASKS`."""
