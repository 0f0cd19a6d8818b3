"""An episode in the making: what is noted of it step by step, and what becomes of it. See `runner.py`."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from blm.actors.sim.env import CellEnv
from blm.actors.sim.episode import Episode
from blm.actors.sim.execution import Execution
from blm.actors.sim.motion import roughness
from blm.actors.sim.outcome import (
    ERRORS,
    EpisodeResult,
    EpisodeTiming,
    Failure,
    Finished,
    RolloutConfig,
    RolloutItem,
    distances,
    why_time_was_up,
)
from blm.actors.sim.tasks import instruction_for
from blm.actors.sim.world import Geometry
from blm.model.types import Observation

Float32 = npt.NDArray[np.float32]


@dataclass(kw_only=True, slots=True, eq=False)
class Running:
    """Lists hold one entry a control step; those of positions, proprio and states begin with the reset."""

    item: RolloutItem
    number: int
    """Its place among those that the runner was given."""
    config: RolloutConfig
    env: CellEnv | None = None
    execution: Execution | None = None
    observation: Observation | None = None
    chunks: int = 0
    success: bool = False
    failure: Failure | None = None
    detail: str = ""
    actions: list[Float32] = field(default_factory=list)
    positions: list[Float32] = field(default_factory=list)
    proprio: list[Float32] = field(default_factory=list)
    states: list[Float32] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"physics": 0.0, "render": 0.0, "wait": 0.0})

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done for it."""
        return self.success or self.failure is not None

    @property
    def limit(self) -> int:
        """Control steps after which time is up."""
        return self.config.max_steps or self.item.cell.task_data.max_steps

    @property
    def instruction(self) -> str:
        """The words its policy is given."""
        return instruction_for(self.item.cell.task_data, self.item.seed, held_out=self.config.held_out)

    def fail(self, failure: Failure, error: object) -> None:
        """End it with an error."""
        self.failure, self.detail = failure, f"{type(error).__name__}: {error}"

    def begin(self, env: CellEnv) -> None:
        """Reset a simulator of its cell to its scene."""
        self.env = env
        env.reset(self.item.seed)
        self._note(env)
        self.execution = Execution(self.config.execution, self.proprio[0])

    def observe(self, *, pictures: bool) -> None:
        """Look, for the policy."""
        assert self.env is not None, "begun before"
        self.observation = Observation(
            images=self.env.render() if pictures else {},
            state=self.env.proprio(),
            instruction=self.instruction,
            embodiment=self.item.cell.robot,
        )

    def execute(self) -> None:
        """Act until the policy is to look again, or the episode is over."""
        assert self.env is not None and self.execution is not None, "begun before"  # noqa: PT018
        while True:
            action = self.execution.next_action()
            self.success = self.env.step(action)
            self.actions.append(action)
            self._note(self.env)
            if self.success:
                return
            if len(self.actions) >= self.limit:
                self.failure = why_time_was_up(np.stack(self.positions), self.item.cell.task_data.reach_m)
                return
            if self.execution.looks:
                return

    def _note(self, env: CellEnv) -> None:
        self.positions.append(env.object_positions())
        self.proprio.append(env.proprio())
        if self.item.keep is not None:
            self.states.append(env.state())

    def finish(self, policy: str, geometry: Geometry) -> Finished:
        """What became of it."""
        kept = self._episode(geometry) if self.item.keep is not None and self.failure not in ERRORS else None
        return Finished(result=self._result(policy, geometry), timing=self._timing(policy), episode=kept)

    def _result(self, policy: str, geometry: Geometry) -> EpisodeResult:
        cell, steps = self.item.cell, len(self.actions)
        hz = cell.embodiment.control_hz
        closest_m, moved_m = distances(np.stack(self.positions)) if steps else (None, None)
        return EpisodeResult(
            cell=cell.name,
            seed=self.item.seed,
            policy=policy,
            instruction=self.instruction,
            success=self.success,
            failure=self.failure,
            error=self.failure in ERRORS,
            detail=self.detail,
            steps=steps,
            chunks=self.chunks,
            time_to_success_s=round(steps / hz, 4) if self.success else None,
            closest_m=closest_m,
            moved_m=moved_m,
            jerk_rad_s3=round(roughness(np.stack(self.proprio)[:, :-1], hz), 1) if steps else None,
            backend=f"cpu, {geometry}",
        )

    def _timing(self, policy: str) -> EpisodeTiming:
        seconds = {f"{name}_s": round(value, 5) for name, value in self.seconds.items()}
        wall_s = round(sum(self.seconds.values()), 5)
        return EpisodeTiming(cell=self.item.cell.name, seed=self.item.seed, policy=policy, wall_s=wall_s, **seconds)

    def _episode(self, geometry: Geometry) -> Episode:
        return Episode(
            robot=self.item.cell.robot,
            task=self.item.cell.task,
            seed=self.item.seed,
            geometry=geometry,
            instruction=self.instruction,
            control_hz=self.item.cell.embodiment.control_hz,
            states=np.stack(self.states),
            proprio=np.stack(self.proprio),
            actions=np.stack(self.actions),
            object_positions=np.stack(self.positions),
            success=self.success,
        )
