"""Pictures of composed and replayed scenes: one simulator a cell, kept for as long as its process lives.

Making a simulator takes a third of a second and drawing a picture two milliseconds, so workers that render
keep one of these and send every scene through it. Plain object, no Ray: the callable classes of the stages
hold it.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import sapien
from PIL import Image

from blm.actors.sim.env import CellEnv
from blm.actors.sim.scenes import place
from blm.actors.sim.world import Cell, WorldConfig

ImageFormat = Literal["png", "jpeg"]
RGB = tuple[float, float, float]
JPEG_QUALITY = 95


class Renderer:
    """Simulators with the world's cameras, one a cell, made when first asked for."""

    def __init__(self, world: WorldConfig) -> None:
        self.world = world
        self._envs: dict[Cell, CellEnv] = {}

    def env(self, cell: Cell) -> CellEnv:
        """The simulator of a cell, in whatever state it was left."""
        if cell not in self._envs:
            world = self.world
            self._envs[cell] = CellEnv(
                cell, cameras=world.cameras, image_px=world.image_px, geometry=world.geometry, spawn=world.spawn
            )
        return self._envs[cell]

    def close(self) -> None:
        """Free all simulators."""
        for env in self._envs.values():
            env.close()
        self._envs.clear()


def encode_picture(picture: npt.NDArray[np.uint8], image_format: ImageFormat) -> bytes:
    """uint8 [H, W, 3] -> PNG bytes, or JPEG bytes of quality 95 without chroma subsampling."""
    buffer = BytesIO()
    image = Image.fromarray(picture)
    if image_format == "png":
        image.save(buffer, "PNG", compress_level=3)
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def place_object(env: CellEnv, position_m: npt.ArrayLike) -> None:
    """Put the task's object there, at rest, its turn unchanged; for composing scenes."""
    place(env._scene.task_object, position_m)


def place_goal(env: CellEnv, position_m: npt.ArrayLike) -> None:
    """Put what marks the task's goal so that the goal is there, its turn unchanged; for composing scenes."""
    env._scene.place_goal(position_m)


def paint_object(env: CellEnv, rgb: RGB | Sequence[RGB]) -> tuple[RGB, ...]:
    """Give the task's object another colour, until it is painted again: one for all its parts, or one each.

    Returns the colours its parts had, to be given back later. Linear RGB in [0, 1].
    """
    bodies = (e.find_component_by_type(sapien.render.RenderBodyComponent) for e in env._scene.task_object._objs)
    materials = [shape.material for body in bodies for shape in body.render_shapes]
    before = tuple(tuple(material.base_color[:3]) for material in materials)
    colors: Sequence[Any] = [rgb] * len(materials) if isinstance(rgb[0], float) else rgb
    for material, color in zip(materials, colors, strict=True):
        material.set_base_color([*color, 1.0])
    return before
