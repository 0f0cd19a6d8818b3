"""One episode that a person watches: the simulator, step by step, with pictures for people beside the policy's.

What the policy sees, its noise and how its chunks are executed are those of an evaluation, so the episode of a seed in
the playground is the one that `blm evaluate` counts, as long as nobody changes its instruction. Pictures for people are
larger, drawn by cameras of their own in the same places. Belongs to one thread. No Ray.
"""

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

from blm.actors.sim.env import CellEnv
from blm.actors.sim.execution import Execution
from blm.actors.sim.execution_options import ExecutionConfig
from blm.actors.sim.outcome import why_time_was_up
from blm.actors.sim.policies import check_chunk, chunk_seed
from blm.actors.sim.world import Cell, Geometry
from blm.model.description import PolicyDescription
from blm.model.types import ActionChunk, Observation

WATCHED = ("front", "side")
"""Cameras that a person looks through where the policy has none."""
JPEG_QUALITY = 85

Pictures = list[tuple[str, bytes]]
"""Name of a camera and its picture as a file, in the policy's order."""


class LiveEpisode:
    """An episode of a cell.

    if episode.looks:
        episode.take(<the policy's answer to episode.observe(instruction) with episode.noise_seed>)
    episode.step()
    """

    def __init__(
        self, cell: Cell, seed: int, *, description: PolicyDescription, geometry: Geometry, display_px: int
    ) -> None:
        """seed: of the scene. display_px: side of the pictures for people. UserError if it cannot be simulated."""
        self.cell, self.seed, self.steps, self.chunks = cell, seed, 0, 0
        self.success = False
        self._description, self._display_px = description, display_px
        self._cameras = description.cameras or WATCHED
        self._env = CellEnv(cell, cameras=self._cameras, image_px=description.image_px or display_px, geometry=geometry)
        self._env.reset(seed)
        self._viewer = self._env.viewer(self._cameras, display_px)
        self._execution = Execution(
            ExecutionConfig(execute_steps=description.execute_steps), np.asarray(self._env.proprio())
        )
        self._positions: list[npt.NDArray[np.float32]] = [self._env.object_positions()]

    @property
    def limit(self) -> int:
        """Control steps after which time is up."""
        return self.cell.task_data.max_steps

    @property
    def looks(self) -> bool:
        """Whether the policy is to be asked before the next step."""
        return self._execution.looks

    @property
    def over(self) -> bool:
        """Whether the task is done or time is up."""
        return self.success or self.steps >= self.limit

    @property
    def outcome(self) -> str:
        """`success`, or a `Failure` of an episode whose time is up."""
        return "success" if self.success else str(why_time_was_up(np.stack(self._positions), self._reach_m))

    @property
    def _reach_m(self) -> float:
        return self.cell.task_data.reach_m

    @property
    def noise_seed(self) -> int:
        """Seed of the noise of the next answer."""
        return chunk_seed(self.cell.name, self.seed, self.chunks)

    def observe(self, instruction: str) -> Observation:
        """What the policy is shown now, and told to do."""
        return Observation(
            images=self._env.render() if self._description.cameras else {},
            state=self._env.proprio(),
            instruction=instruction,
            embodiment=self.cell.robot,
        )

    def take(self, chunk: ActionChunk) -> None:
        """The policy's answer. ValueError for a chunk that cannot be executed."""
        self.chunks += 1
        at_least = min(self._description.execute_steps, self.limit)
        self._execution.take(check_chunk(chunk, self.cell.embodiment, at_least=at_least))

    def step(self) -> bool:
        """One control step; returns whether the episode is over now."""
        self.success = self._env.step(self._execution.next_action())
        self.steps += 1
        self._positions.append(self._env.object_positions())
        return self.over

    def watch(self) -> Pictures:
        """The scene as it is now, as JPEG files for people."""
        return [(name, to_file(picture, "JPEG")) for name, picture in self._viewer.pictures().items()]

    def look(self) -> Pictures:
        """The scene as it is now, as the policy sees it, as PNG files without loss."""
        return seen(self._env.render(), "PNG")

    def close(self) -> None:
        """Free the simulator."""
        del self._viewer
        self._env.close()


def seen(images: Mapping[str, npt.NDArray[np.uint8]], form: str) -> Pictures:
    """Pictures of an observation as files."""
    return [(name, to_file(picture, form)) for name, picture in images.items()]


def to_file(picture: npt.NDArray[np.uint8], form: str) -> bytes:
    """uint8 [H, W, 3] as a JPEG or PNG file."""
    buffer = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if form == "JPEG" else {"compress_level": 1}
    Image.fromarray(picture).save(buffer, format=form, **options)
    return buffer.getvalue()
