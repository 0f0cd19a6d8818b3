"""Rollouts in ManiSkill's own environments: is what we report what ManiSkill would?

The same policy on the same seeds, with everything that decides an episode taken from ManiSkill: its reset by seed, its
controllers, its step, its success flag. Ours are only the words, the chunk's execution, the time limit and, unless
asked otherwise, the pictures:

- `ours`: the state of their simulator is drawn by ours, as the policy knows the world;
- `maniskill`: our cameras are sensors of theirs, with ManiSkill's light, shading, shadows and, but for `lite` geometry,
  table. Its PickCube hides the goal from sensors.

Plain objects, no Ray.
"""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from blm.actors.sim.cameras import CAMERAS
from blm.actors.sim.env import CellEnv
from blm.actors.sim.execution import Execution
from blm.actors.sim.outcome import EpisodeResult, Failure, RolloutConfig, RolloutItem, why_time_was_up
from blm.actors.sim.policies import Policy, check_chunk, chunk_seed
from blm.actors.sim.robots import get_robot
from blm.actors.sim.running import Running
from blm.actors.sim.stock_envs import ROBOT, make_stock
from blm.actors.sim.task_scenes import SCENES
from blm.actors.sim.world import Cell, WorldConfig
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation

Float32 = npt.NDArray[np.float32]
Pictures = Literal["ours", "maniskill"]
PICTURES: tuple[Pictures, ...] = ("ours", "maniskill")


class StockRunner:
    """Episodes of one cell, one after the other."""

    def __init__(
        self, cell: Cell, world: WorldConfig, config: RolloutConfig, policy: Policy, pictures: Pictures = "ours"
    ) -> None:
        """world: cameras, picture size and geometry. UserError for a robot or spawn region that is not ManiSkill's."""
        if world.spawn_shift_m != (0.0, 0.0) or world.spawn_spread != 1.0:
            raise UserError("world.spawn_shift_m or world.spawn_spread is set; ManiSkill has its own spawn regions")
        self.cell, self.world, self.config, self.policy = cell, world, config, policy
        self.limit = config.max_steps or cell.task_data.max_steps
        theirs = policy.sees and pictures == "maniskill"
        self._env = make_stock(
            cell,
            geometry=world.geometry,
            cameras=[CAMERAS[name] for name in world.cameras] if theirs else None,
            image_px=world.image_px,
            max_steps=self.limit,
            drawn=theirs,
        )
        # Its steps and resets return no observation: what the policy does not look at need not be drawn.
        scene: Any = self._env.unwrapped
        scene._obs_mode = "none"
        self._eyes: CellEnv | None = None
        if policy.sees and not theirs:
            self._eyes = CellEnv(cell, cameras=world.cameras, image_px=world.image_px, geometry=world.geometry)
        self.backend = f"maniskill, {world.geometry}"
        if theirs:
            self.backend += ", its pictures"

    def run(self, seed: int) -> EpisodeResult:
        """The episode of a scene seed. A policy that cannot answer, or wrongly, makes it a failure with that reason;
        UserError if it cannot be asked at all.
        """
        one = Running(item=RolloutItem(cell=self.cell, seed=seed), number=0, config=self.config)
        # As ManiSkill's own evaluations do it: a scene that was simulated before remembers contacts.
        self._env.reset(seed=seed, options={"reconfigure": True})
        self._note(one)
        one.execution = Execution(self.config.execution, one.proprio[0])
        while not one.over:
            if one.execution.looks:
                self._look(one, one.execution)
            if not one.over:
                self._step(one, one.execution)
        return replace(one.finish(self.policy.name, self.world.geometry).result, backend=self.backend)

    def close(self) -> None:
        """Free the simulators."""
        self._env.close()
        if self._eyes is not None:
            self._eyes.close()

    def _step(self, one: Running, execution: Execution) -> None:
        one.actions.append(execution.next_action())
        *_, info = self._env.step(self._their_action(one.actions[-1]))
        self._note(one)
        one.success = bool(info["success"].item())
        if not one.success and len(one.actions) >= self.limit:
            one.failure = why_time_was_up(np.stack(one.positions), self.cell.task_data.reach_m)

    # ------------------------------------------------------------------------------------------------------ the policy

    def _look(self, one: Running, execution: Execution) -> None:
        """Give the episode its next chunk, or a failure."""
        try:
            chunk = self._ask(one, execution)
        except UserError:
            raise
        except Exception as error:
            one.fail(Failure.POLICY_ERROR, error)
            return
        one.chunks += 1
        at_least = min(self.config.execution.execute_steps, self.limit)
        try:
            execution.take(check_chunk(chunk, self.cell.embodiment, at_least=at_least))
        except Exception as error:
            one.fail(Failure.BAD_ACTION, error)

    def _ask(self, one: Running, execution: Execution) -> ActionChunk:
        observation = Observation(
            images=self._pictures(),
            state=one.proprio[-1],
            instruction=one.instruction,
            embodiment=self.cell.robot,
        )
        seeds, prefix = [chunk_seed(self.cell.name, one.item.seed, one.chunks)], execution.prefix()
        if prefix is None:
            (chunk,) = self.policy.infer_batch([observation], seeds)
        else:
            (chunk,) = self.policy.infer_batch([observation], seeds, [prefix])
        return chunk

    def _pictures(self) -> dict[str, npt.NDArray[np.uint8]]:
        if not self.policy.sees:
            return {}
        if self._eyes is not None:
            self._eyes.set_state(self._state(self._eyes))
            return self._eyes.render()
        scene: Any = self._env.unwrapped
        scene._obs_mode = "rgb"
        data = scene.get_obs()["sensor_data"]
        scene._obs_mode = "none"
        return {name: data[name]["rgb"][0].numpy() for name in self.world.cameras}

    # --------------------------------------------------------------------------------------------- from theirs to ours

    def _state(self, eyes: CellEnv) -> Float32:
        """The state of their simulator as ours has it, [D]: without the table, and the robot by another name."""
        theirs = self._env.unwrapped.get_state_dict()
        parts = [theirs["actors"][name] for name in eyes.actor_names()]
        return np.concatenate([one[0].numpy() for one in (*parts, theirs["articulations"][ROBOT])])

    def _note(self, one: Running) -> None:
        """Positions and proprioception of this moment, as ours are."""
        scene: Any = self._env.unwrapped
        ours = SCENES[self.cell.task]
        things = (getattr(scene, ours.object_attr), getattr(scene, ours.goal_attr))
        places = [thing.pose.p[0].numpy() for thing in (scene.agent.tcp, *things)]
        one.positions.append(np.concatenate(places).astype(np.float32))
        qpos, dof = scene.agent.robot.get_qpos()[0].numpy(), self.cell.embodiment.arm_dof
        opened = get_robot(self.cell.robot).gripper_opening(qpos[dof:])
        one.proprio.append(np.append(qpos[:dof], opened).astype(np.float32))

    def _their_action(self, action: Float32) -> Float32:
        """Within the limits that ours has, the gripper from [0, 1] to [-1, 1]."""
        robot = self.cell.embodiment
        arm = np.clip(action[:-1], robot.joint_lower_rad, robot.joint_upper_rad)
        return np.append(arm, 2.0 * np.clip(action[-1], 0.0, 1.0) - 1.0).astype(np.float32)
