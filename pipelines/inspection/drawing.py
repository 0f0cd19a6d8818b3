"""Kept simulator states drawn again, to be looked at."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from blm.actors.sim.episode import Episode
from blm.model.errors import UserError

if TYPE_CHECKING:  # the simulator takes seconds to import
    from blm.actors.renderer import Renderer

Picture = npt.NDArray[np.uint8]


class Drawer:
    """Draws episodes, most quickly one cell after the other: it keeps the simulator of the last one."""

    def __init__(self, cameras: Sequence[str], picture_px: int) -> None:
        self.cameras = tuple(cameras)
        self.picture_px = picture_px
        self._renderer: Renderer | None = None

    def draw(self, episode: Episode, steps: Iterable[int]) -> list[dict[str, Picture]]:
        """Pictures [H,W,3] of every camera at some steps. UserError if this version cannot simulate the episode."""
        from blm.actors.renderer import Renderer
        from blm.actors.sim.world import WorldConfig, parse_cell

        world = WorldConfig(
            cells=(episode.cell,), cameras=self.cameras, image_px=self.picture_px, geometry=episode.geometry
        )
        if self._renderer is None or self._renderer.world != world:
            self.close()
            self._renderer = Renderer(world)
        env = self._renderer.env(parse_cell(episode.cell))
        if env.state().size != episode.states.shape[1]:
            raise UserError(f"{episode.cell} was collected by another version of the simulator; collect it again")
        drawn = []
        for step in steps:
            env.set_state(episode.states[step])
            drawn.append(env.render())
        return drawn

    def close(self) -> None:
        """Free the simulator."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
