"""A benchmark for the harness `vla-eval` that needs no simulator: it executes nothing and reports what it was told to.

Loaded by the harness by its name, in an environment of its own; see test_policy_peers.py.
"""

from typing import Any

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult, repeat_last_hold
from vla_eval.specs import LANGUAGE, STATE_JOINT, DimSpec

STEPS = 12


class Toy(StepBenchmark):
    def __init__(self, execute_steps: int = 0, cameras: tuple[str, ...] = ("front",)) -> None:
        super().__init__()
        self.execute_steps = execute_steps
        self.cameras = list(cameras)
        self.actions: list[list[float]] = []

    def get_tasks(self) -> list[dict[str, Any]]:
        return [{"name": "toy", "embodiment": "panda"}]

    def reset(self, task: dict[str, Any]) -> None:
        self.actions = []

    def step(self, action: dict[str, Any]) -> StepResult:
        self.actions.append([float(value) for value in action["actions"]])
        return StepResult(obs=None, reward=0.0, done=len(self.actions) >= STEPS, info={})

    def make_obs(self, raw_obs: Any, task: dict[str, Any]) -> dict[str, Any]:
        state = np.full(8, len(self.actions) / 10, np.float32)
        seed = 100 * task["episode_idx"] + len(self.actions)
        return {"images": {}, "states": state, "task_description": "push the cube", "seed": seed}

    def get_step_result(self, step_result: StepResult) -> dict[str, Any]:
        told = {"execute_steps": self.execute_steps, "cameras": self.cameras}
        return {"success": True, "actions": self.actions, "told": told}

    def get_hold_action(self, last_action: dict[str, Any] | None) -> dict[str, Any]:
        return repeat_last_hold(last_action, 8)

    def get_action_spec(self) -> dict[str, DimSpec]:
        return {
            "joints": DimSpec("joints", 7, "absolute_joint_targets_rad"),
            "gripper": DimSpec("gripper", 1, "opening_01", (0, 1)),
        }

    def get_observation_spec(self) -> dict[str, DimSpec]:
        return {"state": STATE_JOINT, "language": LANGUAGE}
