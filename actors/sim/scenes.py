"""What our simulated tasks share: ManiSkill's physics, randomisation and success test, lighter to draw.

What differs from the stock environments, and why:
- our own agents (`agents.py`), so the rest posture and its noise are set here instead of in ManiSkill's table
  builder;
- goal markers are part of the picture: a policy that only sees has to see the goal. A goal in the air also
  gets a pole down to a square on the table, since one picture of a small ball tells its direction but hardly
  its distance;
- with `lite` geometry the table is drawn as one box and the floor not at all (the stock table has 20,000
  triangles, and drawing on a CPU costs by the triangle). Collision shapes stay as they are;
- no cameras of ManiSkill's own; `env.CellEnv` adds the ones asked for;
- where a robot's reach demands it, objects are put elsewhere (`spawn.py`).

The tasks themselves are in `task_scenes.py`.
"""

import logging
import math
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import sapien
import torch
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.utils.scene_builder.table import TableSceneBuilder
from mani_skill.utils.structs import Actor, Pose

from blm.actors.sim.agents import CONTROL_MODE, agent_uid
from blm.actors.sim.light_table import LightTable, draw_table_top
from blm.actors.sim.robots import get_robot
from blm.actors.sim.seeding import seeded
from blm.actors.sim.spawn import STOCK, Spawn, spawn_of
from blm.actors.sim.world import Cell, Geometry
from blm.model.embodiments import GRIPPER_OPEN
from blm.model.errors import UserError

# Some of ManiSkill's tasks build things without saying where, and it warns about that at every rebuild.
logging.getLogger("mani_skill ").addFilter(lambda record: not record.getMessage().startswith("No initial pose set"))

REST_NOISE_RAD = 0.02
"""Standard deviation of the start posture, as in ManiSkill."""

Device = Literal["cpu", "cuda"]

SURE_M = 1e-4
"""By how much a place must miss ManiSkill's test of success to be called a miss without asking: ten thousand times what
single precision can be off."""


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

    object_attr and goal_attr name the attributes under which the task keeps its object and what marks its goal.
    goal_offset_m is where the goal is, seen from that marker. spawned names the things that a reset places, in
    groups that keep their arrangement when a spawn region is moved or narrowed about spawn_centres_m.
    """

    object_attr: str
    goal_attr: str
    goal_offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spawned: tuple[tuple[str, ...], ...]
    spawn_centres_m: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.0, 0.0))
    agent: Any
    scene: Any
    _sensors: dict[str, Any]
    _human_render_cameras: dict[str, Any]
    _hidden_objects: list[Any]

    def __init__(
        self,
        *,
        cell: Cell,
        geometry: Geometry,
        render: bool,
        spawn: Spawn = STOCK,
        copies: int = 1,
        device: Device = "cpu",
    ) -> None:
        """copies: how many are simulated side by side, on a GPU (`many_cells`); one on a CPU."""
        backend, _ = open_renderer()
        self.cell = cell
        self.geometry = geometry
        self.spawn = spawn_of(cell.robot, cell.task, spawn)
        self.SUPPORTED_ROBOTS = [agent_uid(cell.robot, geometry)]
        super().__init__(
            robot_uids=self.SUPPORTED_ROBOTS[0],
            robot_init_qpos_noise=REST_NOISE_RAD,
            control_mode=CONTROL_MODE,
            obs_mode="none",
            reward_mode="none",
            num_envs=copies,
            sim_backend=f"physx_{device}",
            render_backend=backend if render else "none",
        )

    @property
    def task_object(self) -> Actor:
        """The thing to move."""
        return getattr(self, self.object_attr)

    @property
    def task_goal(self) -> Actor:
        """What marks the place to move it to."""
        return getattr(self, self.goal_attr)

    def goal_position(self) -> npt.NDArray[np.float32]:
        """The goal in world metres, [3]."""
        return position(self.task_goal) + np.asarray(self.goal_offset_m, np.float32)

    def place_goal(self, position_m: npt.ArrayLike) -> None:
        """Puts what marks the goal so that the goal is there, its turn unchanged."""
        place(self.task_goal, np.asarray(position_m) - np.asarray(self.goal_offset_m))

    @property
    def _default_sensor_configs(self) -> list[Any]:
        return []

    @property
    def _default_human_render_camera_configs(self) -> list[Any]:
        return []

    @property
    def table_scene(self) -> TableSceneBuilder:
        """Table and floor. A task sets ManiSkill's; with light geometry ours takes its place."""
        return self._table_scene

    @table_scene.setter
    def table_scene(self, own: TableSceneBuilder) -> None:
        light = self.geometry == "lite"
        self._table_scene = LightTable(self, own.robot_init_qpos_noise) if light else own

    def reset(self, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The scene of a seed, which must be given; `options["reconfigure"]` builds it anew. Returns nothing of use.

        ManiSkill's, with the same draws in the same order, for one scene on a CPU: no seeding of accelerators (a stack
        trace each time), no batches of generators, no observation.
        """
        assert seed is not None, "every scene has its seed"
        if self.device.type == "cuda":
            return super().reset(seed=seed, options=options)
        options, one = options or {}, torch.arange(1)
        first = int(np.ravel(seed)[0])
        if options.get("reconfigure", False):
            with seeded(first):
                self._reconfigure(options)
        self._set_episode_rng(seed, one)
        self.scene._reset_mask = torch.ones(1, dtype=torch.bool)
        self._elapsed_steps[:] = 0
        self._clear_sim_state()
        self.agent.reset()
        with seeded(first):
            self._initialize_episode(one, options)
        self.agent.controller.reset()
        self._last_obs: dict[str, Any] = {}
        return {}, {}

    def surely_undone(self) -> bool:
        """Whether positions alone tell that the task is not done, clearly (`SURE_M`); a few microseconds.

        False says nothing. Success is only ever what ManiSkill's own `evaluate` says.
        """
        return False

    def _apart_m(self) -> tuple[float, float]:
        """How far the object is from what marks the goal: across the table, and upwards."""
        x, y, z = position(self.task_object).tolist()
        goal_x, goal_y, goal_z = position(self.task_goal).tolist()
        return math.hypot(x - goal_x, y - goal_y), z - goal_z

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
            self.remove_from_state_dict_registry(draw_table_top(self.scene))

    def place_markers(self) -> None:
        """Moves what is drawn only as an aid to where the goal is now. Called before every picture."""

    def goal_ring(self) -> tuple[npt.NDArray[np.float32], float] | None:
        """Centre [3] and radius (world metres) of a ring that is drawn over every picture, if the goal needs one."""
        return None

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict[str, Any]) -> None:
        super()._initialize_episode(env_idx, options)
        if self.device.type == "cpu":  # scenes on a GPU are copied from there
            self._adapt_spawn()
        spec = get_robot(self.cell.robot)
        rest = [*spec.embodiment.rest_rad, *spec.finger_positions(GRIPPER_OPEN)]
        noise = self._episode_rng.normal(0.0, REST_NOISE_RAD, (len(env_idx), len(rest)))
        noise[:, spec.embodiment.arm_dof :] = 0.0
        self.agent.reset(np.asarray(rest) + noise)
        self.agent.robot.set_pose(sapien.Pose(spec.base_position_m))

    def _adapt_spawn(self) -> None:
        """Moves what a reset has placed to where this robot reaches it; most cells have nothing to adapt."""
        spawn = self.spawn
        if spawn == STOCK:
            return
        for names, centre_m in zip(self.spawned, self.spawn_centres_m, strict=False):
            actors = [getattr(self, name) for name in names]
            anchor_m = np.mean([actor.pose.p[0, :2].numpy() for actor in actors], axis=0)
            moved_m = np.asarray(spawn.shift_m) + (spawn.spread - 1.0) * (anchor_m - np.asarray(centre_m))
            for actor in actors:
                place(actor, actor.pose.p[0].numpy() + np.append(moved_m, 0.0))


def position(actor: Actor) -> npt.NDArray[np.float32]:
    """Where an actor is in world metres, [3]."""
    return actor._objs[0].pose.p


def place(actor: Actor, position_m: npt.ArrayLike) -> None:
    """Puts an actor there, its turn unchanged."""
    position = np.asarray(position_m, dtype=np.float32)[None]
    actor.set_pose(Pose.create_from_pq(p=position, q=actor.pose.q))
