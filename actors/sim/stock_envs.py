"""ManiSkill's own environments, made with `gymnasium.make`: its robot, its reset, its step, its success.

`make_stock` gives them as they are. What it can change is what a policy sees and how heavy that is to draw: cameras of
ours as the environment's sensors, our light description of the Panda, a table without drawings. Such classes are
derived from ManiSkill's through the hooks it has for that, and registered under names of their own.

The Panda alone: ManiSkill's tasks are written for it, and our other robots have no equal there.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import gymnasium
import mani_skill.envs  # noqa: F401  registers the environments
from mani_skill.agents.robots import Panda
from mani_skill.sensors.camera import CameraConfig
from mani_skill.utils import sapien_utils
from mani_skill.utils.registration import REGISTERED_ENVS, register_env
from mani_skill.utils.scene_builder.table import TableSceneBuilder

from blm.actors.sim.cameras import FAR_M, MOUNTED_NEAR_M, NEAR_M, CameraSpec
from blm.actors.sim.descriptions import description
from blm.actors.sim.light_table import LightTable, draw_table_top
from blm.actors.sim.scenes import open_renderer
from blm.actors.sim.world import Cell, Geometry
from blm.model.errors import UserError

ROBOT = "panda"
CONTROL_MODE = "pd_joint_pos"
"""Absolute joint targets in rad, then the gripper in [-1 closed, 1 open]."""


def make_stock(
    cell: Cell,
    *,
    geometry: Geometry = "official",
    cameras: Sequence[CameraSpec] | None = None,
    image_px: int = 128,
    max_steps: int = 0,
    drawn: bool = True,
) -> gymnasium.Env[Any, Any]:
    """One environment of ManiSkill on the CPU.

    cameras: in place of the task's own, with pictures of image_px; None: the task's own camera and size. max_steps: its
    time limit; 0: ManiSkill's. drawn: False for physics alone. UserError for a robot that ManiSkill does not have.
    """
    if cell.robot != ROBOT:
        raise UserError(f"{cell.name}: ManiSkill's tasks are made for the {ROBOT}; give cells of the {ROBOT}")
    backend, _ = open_renderer()
    options: dict[str, Any] = {
        "robot_uids": ROBOT,
        "control_mode": CONTROL_MODE,
        "reward_mode": "none",
        "obs_mode": "rgb" if drawn else "none",
        "sim_backend": "physx_cpu",
        "render_backend": backend if drawn else "none",
    }
    if max_steps:
        options["max_episode_steps"] = max_steps
    name = cell.task_data.env_id
    if geometry == "lite" or cameras is not None:
        name = _adapted(name)
        options |= {"light": geometry == "lite", "views": cameras, "view_px": image_px}
    return gymnasium.make(name, **options)


@cache
def _adapted(env_id: str) -> str:
    """Registers a task of ManiSkill with the hooks below; returns the name it has then."""
    name = f"BlmView{env_id}"
    task = REGISTERED_ENVS[env_id].cls
    register_env(name, max_episode_steps=REGISTERED_ENVS[env_id].max_episode_steps)(
        type(f"BlmView{task.__name__}", (_Adapted, task), {})
    )
    return name


@cache
def _light_panda() -> type[Panda]:
    """ManiSkill's Panda, its controllers and grasp test, on our description of it."""
    return type("LightPanda", (Panda,), {"urdf_path": str(description(ROBOT, "lite"))})


class _Adapted:
    """Mixin over a task of ManiSkill. What it does not name is ManiSkill's."""

    scene: Any
    agent: Any
    robot_uids: Any

    def __init__(self, *, light: bool, views: Sequence[CameraSpec] | None, view_px: int, **options: Any) -> None:
        self._light, self._views, self._view_px = light, views, view_px
        super().__init__(**options)

    @property
    def table_scene(self) -> TableSceneBuilder:
        return self._table_scene

    @table_scene.setter
    def table_scene(self, own: TableSceneBuilder) -> None:
        self._table_scene = LightTable(self, own.robot_init_qpos_noise) if self._light else own

    @property
    def _default_sensor_configs(self) -> Any:
        if self._views is None:
            return super()._default_sensor_configs  # type: ignore[misc]
        return [self._sensor(spec) for spec in self._views]

    def _sensor(self, spec: CameraSpec) -> CameraConfig:
        return CameraConfig(
            uid=spec.name,
            pose=sapien_utils.look_at(spec.eye_m, spec.target_m, spec.up),
            width=self._view_px,
            height=self._view_px,
            fov=spec.fov_rad,
            near=MOUNTED_NEAR_M if spec.mounted else NEAR_M,
            far=FAR_M,
            mount=self.agent.tcp if spec.mounted else None,
        )

    def _load_agent(self, options: dict[str, Any], *arguments: Any, **more: Any) -> None:
        if self._light:
            self.robot_uids = _light_panda()
        super()._load_agent(options, *arguments, **more)  # type: ignore[misc]
        self.robot_uids = ROBOT

    def _load_scene(self, options: dict[str, Any]) -> None:
        super()._load_scene(options)  # type: ignore[misc]
        if self._light and self.scene.can_render():
            self.scene.remove_from_state_dict_registry(draw_table_top(self.scene))
