"""Our cells as a benchmark of the harness `vla-eval`, which loads this class by its name and is not changed for it.

    benchmarks:
      - benchmark: blm.actors.remote.vla_eval_cells:BlmCells
        episodes_per_task: 50
        params: {cells: [panda/PushCube, panda/PickCube]}

A task is a cell, its episodes the scene seeds of evaluation, so that success can be compared seed by seed with
`blm evaluate`. What the server says at the handshake (cameras, picture size, steps between looks) becomes arguments of
the constructor. Every observation carries the noise seed of its look, and a server that says when it looks gets
pictures only then. Needs the environment of cluster/setup/vla_eval_env.sh.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult, repeat_last_hold
from vla_eval.specs import IMAGE_RGB, LANGUAGE, STATE_JOINT, DimSpec

from blm.actors.sim.env import CellEnv
from blm.actors.sim.policies import chunk_seed
from blm.actors.sim.tasks import instruction_for
from blm.actors.sim.world import Cell, Geometry, parse_cell, seed_range
from blm.model.errors import UserError


class BlmCells(StepBenchmark):
    """Robots on tasks, simulated by ManiSkill with our robots and cameras."""

    render_backends: ClassVar[frozenset[str]] = frozenset({"gpu", "cpu"})
    _ALL_RECORD_FIELDS: ClassVar[frozenset[str]] = frozenset({"success", "done"})

    def __init__(
        self,
        cells: Sequence[str] = ("panda/PushCube", "panda/PickCube"),
        cameras: Sequence[str] = ("front",),
        image_px: int = 112,
        execute_steps: int = 0,
        geometry: Geometry = "lite",
        first_seed: int | None = None,
        max_steps: int = 0,
        held_out: bool = False,
    ) -> None:
        """execute_steps: actions between looks; 0: unknown, every observation has pictures. first_seed: of each cell's
        episodes; by default the first one of evaluation. max_steps: 0: each task's own limit. held_out: whether tasks
        are told in words kept out of training."""
        super().__init__()
        self._cells = [parse_cell(cell) for cell in cells]
        self._cameras = tuple(cameras)
        self._image_px = image_px
        self._execute_steps = execute_steps
        self._geometry: Geometry = geometry
        self._first_seed = seed_range("evaluate").start if first_seed is None else first_seed
        self._max_steps = max_steps
        self._held_out = held_out
        self._cell: Cell | None = None
        self._env: CellEnv | None = None
        self._seed = 0
        self._steps = 0
        self._live = False

    @classmethod
    def configure_render(cls, mode: str) -> dict[str, str]:
        """Vulkan draws with whatever device it finds, as in our own evaluation."""
        return {}

    def get_tasks(self) -> list[dict[str, Any]]:
        """A task a cell."""
        return [{"name": cell.name, "suite": cell.robot, "embodiment": cell.robot} for cell in self._cells]

    def reset(self, task: dict[str, Any]) -> None:
        """The scene of the cell's seed `first_seed + episode_idx`."""
        cell = parse_cell(task["name"])
        if cell != self._cell or self._env is None:
            self.cleanup()
            self._env = CellEnv(cell, cameras=self._cameras, image_px=self._image_px, geometry=self._geometry)
            self._cell = cell
        self._seed = self._first_seed + int(task["episode_idx"])
        self._steps = 0
        self._env.reset(self._seed)

    def step(self, action: dict[str, Any]) -> StepResult:
        """One control step. ValueError for an action of another size, which fails the episode."""
        env, cell = self._open()
        success = env.step(np.asarray(action["actions"], dtype=np.float32))
        self._steps += 1
        done = success or self._steps >= (self._max_steps or cell.task_data.max_steps)
        self._recorder.record_step(success=success, done=done)
        return StepResult(obs=None, reward=float(success), done=done, info={"success": success})

    def make_obs(self, raw_obs: Any, task: dict[str, Any]) -> dict[str, Any]:
        """What the policy may know of this moment."""
        env, cell = self._open()
        looks, since = divmod(self._steps, self._execute_steps or 1)
        return {
            "images": env.render() if since == 0 or self._live else {},
            "states": env.proprio(),
            "task_description": instruction_for(cell.task_data, self._seed, held_out=self._held_out),
            "embodiment": cell.robot,
            "seed": chunk_seed(cell.name, self._seed, looks),
        }

    def get_step_result(self, step_result: StepResult) -> dict[str, Any]:
        """Success, the scene's seed, and where the tool and the object are in the end (m, world)."""
        env, _ = self._open()
        positions = [round(float(value), 5) for value in env.object_positions()[:6]]
        return {"success": bool(step_result.info.get("success", False)), "seed": self._seed, "positions_m": positions}

    def get_hold_action(self, last_action: dict[str, Any] | None) -> dict[str, Any]:
        """Actions are targets: the last one goes on holding; before the first, the robot stays where it is.

        Live runs alone ask, for the first time before any episode. From then on every observation has pictures: it is
        the server that chooses among them.
        """
        self._live = True
        if last_action is None and self._env is not None:
            return {"actions": self._env.proprio()}
        body = self._cells[0].embodiment
        return dict(repeat_last_hold(last_action, body.action_dim))

    def get_metadata(self) -> dict[str, Any]:
        """The longest time limit, and what one must know to read the results."""
        longest = self._max_steps or max(cell.task_data.max_steps for cell in self._cells)
        return {"max_steps": longest, "geometry": self._geometry, "backend": "cpu", "cameras": list(self._cameras)}

    def get_action_spec(self) -> dict[str, DimSpec]:
        """Absolute joint targets (rad) and the gripper's opening."""
        sizes = {cell.embodiment.arm_dof for cell in self._cells}
        return {
            "joints": DimSpec("joints", sizes.pop() if len(sizes) == 1 else 0, "absolute_joint_targets_rad"),
            "gripper": DimSpec("gripper", 1, "opening_01", (0, 1)),
        }

    def get_observation_spec(self) -> dict[str, DimSpec]:
        """Pictures, joint positions, words."""
        return {**dict.fromkeys(self._cameras, IMAGE_RGB), "state": STATE_JOINT, "language": LANGUAGE}

    def cleanup(self) -> None:
        """Free the simulator."""
        if self._env is not None:
            self._env.close()
        self._env = None

    def _open(self) -> tuple[CellEnv, Cell]:
        if self._env is None or self._cell is None:
            raise UserError("no episode has been started")
        return self._env, self._cell
