"""What is recorded while a demonstration is executed, and what it says about how well the arm moved."""

from dataclasses import InitVar, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from blm.actors.sim.env import CellEnv
from blm.actors.sim.motion import roughness

Float32 = npt.NDArray[np.float32]


@dataclass(slots=True)
class Tape:
    """Everything executed since the last start. Row t of states, proprio and positions precedes action t."""

    env: CellEnv
    start: InitVar[Float32]
    """The state that the simulator was put into. Read back it may differ in its last digits, which adds up."""
    states: list[Float32] = field(default_factory=list)
    proprio: list[Float32] = field(default_factory=list)
    positions: list[Float32] = field(default_factory=list)
    actions: list[Float32] = field(default_factory=list)
    phases: list[tuple[str, int]] = field(default_factory=list)
    """Name and first control step of every primitive executed."""
    first_success: int | None = None
    """Control step after which the task was done for the first time."""

    def __post_init__(self, start: Float32) -> None:
        self._look()
        self.states[0] = start

    def _look(self) -> None:
        self.states.append(self.env.state())
        self.proprio.append(self.env.proprio())
        self.positions.append(self.env.object_positions())

    def begin(self, name: str) -> None:
        """Notes that a primitive begins with the next step."""
        self.phases.append((name, len(self.actions)))

    def step(self, action: Float32) -> bool:
        """Executes and records an action; whether the task is done now."""
        done = self.env.step(action)
        self.actions.append(action)
        self._look()
        if done and self.first_success is None:
            self.first_success = len(self.actions)
        return done

    def smoothness(self) -> dict[str, Any]:
        """Root mean square jerk of the arm's joints, and how far the tool centre travelled."""
        jerk_rad_s3 = roughness(np.stack(self.proprio)[:, :-1], self.env.embodiment.control_hz)
        tool = np.stack(self.positions)[:, :3]
        path_m = float(np.linalg.norm(np.diff(tool, axis=0), axis=1).sum())
        return {"jerk_rad_s3": round(jerk_rad_s3, 1), "tool_path_m": round(path_m, 4)}
