"""How a scene may look apart from what is in it: camera poses, light, table and background, drawn at random.

Demonstrations are kept as states, so variety of looks costs nothing until pictures are drawn, and one demonstration
can be drawn with many. What instructions speak of keeps its colour: objects, goals and the robot. A look is drawn
from the cell, the episode's seed and the number of the variant, and from nothing else: whoever draws it, in whatever
order, gets the same. Data and NumPy only; `dressing` puts a look on.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from blm.actors.sim.cameras import CameraSpec, Vector
from blm.model.errors import UserError

TableTexture = Literal["flat", "checker", "noise"]
Range = tuple[float, float]
RGB = tuple[float, float, float]

TABLE_RGB: RGB = (0.62, 0.58, 0.52)
AMBIENT_RGB: RGB = (0.4, 0.4, 0.4)
LIGHT_RGB: RGB = (1.6, 1.6, 1.6)
LIGHT_DIRECTION: Vector = (0.6, 0.8, -1.0)
BACKGROUND_GREY = 150
TEXTURE_PX = 64
"""Side of a table texture; the table's top is 1.2 m by 1.5 m, so a texel is about 2 cm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LookConfig:
    """What looks are drawn from. Ranges are [lowest, highest], drawn evenly."""

    eye_jitter_m: float = 0.04
    """How far a fixed camera's position is moved along each axis, at most."""
    aim_jitter_m: float = 0.02
    """The same for the point it looks at."""
    mount_jitter_m: float = 0.005
    """The same for both of a camera mounted on the hand."""
    light: Range = (1.0, 2.2)
    """Strength of the one directional light; plain is 1.6."""
    ambient: Range = (0.25, 0.55)
    """Strength of the light from everywhere; plain is 0.4."""
    light_elevation_rad: Range = (0.5, 1.4)
    """Height of the light above the horizon; it comes from any side."""
    light_tint: float = 0.12
    """How far each of the light's colour channels may be from white, as a share."""
    table_textures: tuple[TableTexture, ...] = ("flat", "checker", "noise")
    """What the table may be covered with."""
    table_brightness: Range = (0.2, 0.8)
    """Of its colour, linear."""
    table_saturation: Range = (0.0, 0.3)
    """Of its colour; kept low, so that no table is as colourful as what lies on it."""
    table_contrast: float = 0.3
    """How much darker than the rest the dark parts of a texture are, at most, as a share."""
    background: Range = (90.0, 210.0)
    """Grey of what is beyond the table, of 255."""

    def __post_init__(self) -> None:
        for name in ("eye_jitter_m", "aim_jitter_m", "mount_jitter_m"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise UserError(f"look.{name} is {getattr(self, name)}; give 0 or more")
        for name, (least, most) in _LIMITS.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise UserError(f"look.{name} is [{low}, {high}]; give [lowest, highest] between {least} and {most}")
        for name in ("light_tint", "table_contrast"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"look.{name} is {getattr(self, name)}; give 0 or more and less than 1")
        if not self.table_textures:
            raise UserError("look.table_textures is empty; give flat, checker or noise")


_LIMITS: dict[str, Range] = {
    "light": (0.0, 10.0),
    "ambient": (0.0, 2.0),
    "light_elevation_rad": (0.1, math.pi / 2),
    "table_brightness": (0.0, 1.0),
    "table_saturation": (0.0, 1.0),
    "background": (0.0, 255.0),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Look:
    """One look. The defaults are the plain one."""

    cameras: dict[str, CameraSpec] = field(default_factory=dict)
    """Cameras that stand elsewhere than their name says."""
    ambient_rgb: RGB = AMBIENT_RGB
    """Light from everywhere, linear."""
    light_rgb: RGB = LIGHT_RGB
    """The directional light, linear."""
    light_direction: Vector = LIGHT_DIRECTION
    """Where it shines to, world frame."""
    table: npt.NDArray[np.uint8] | None = None
    """Texture of the table's top, sRGB [TEXTURE_PX,TEXTURE_PX,4]; None leaves the table as it is."""
    background_grey: int = BACKGROUND_GREY
    """Where nothing is drawn, 0 to 255."""


PLAIN = Look()
"""What every picture looks like unless another look is put on."""


def draw_look(config: LookConfig, *, cell: str, seed: int, variant: int, cameras: Sequence[CameraSpec]) -> Look:
    """The look of one variant of an episode. Everything has a stream of its own: no camera's depends on another's."""

    def stream(thing: str) -> np.random.Generator:
        return np.random.default_rng([seed, variant, *f"{cell} {thing}".encode()])

    light, table = stream("light"), stream("table")
    azimuth, elevation = light.uniform(0.0, 2.0 * math.pi), light.uniform(*config.light_elevation_rad)
    tint = 1.0 + light.uniform(-config.light_tint, config.light_tint, 3)
    return Look(
        cameras={camera.name: _moved(camera, config, stream(f"camera {camera.name}")) for camera in cameras},
        ambient_rgb=_rgb(light.uniform(*config.ambient) * tint),
        light_rgb=_rgb(light.uniform(*config.light) * tint),
        light_direction=(
            -math.cos(elevation) * math.cos(azimuth), -math.cos(elevation) * math.sin(azimuth), -math.sin(elevation)
        ),
        table=_table(config, table),
        background_grey=round(stream("background").uniform(*config.background)),
    )  # fmt: skip


def _moved(camera: CameraSpec, config: LookConfig, rng: np.random.Generator) -> CameraSpec:
    eye_m = config.mount_jitter_m if camera.mounted else config.eye_jitter_m
    aim_m = config.mount_jitter_m if camera.mounted else config.aim_jitter_m
    shifts = rng.uniform(-1.0, 1.0, (2, 3)) * [[eye_m], [aim_m]]
    return replace(
        camera,
        eye_m=_rgb(np.asarray(camera.eye_m) + shifts[0]),
        target_m=_rgb(np.asarray(camera.target_m) + shifts[1]),
    )


def _rgb(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _table(config: LookConfig, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A texture: one colour, darkened by a pattern in [0, 1]."""
    color = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*config.table_saturation), 1.0)
    kind = config.table_textures[rng.integers(len(config.table_textures))]
    darker = rng.uniform(0.0, config.table_contrast) * _pattern(kind, rng)
    linear = np.clip(rng.uniform(*config.table_brightness) * np.asarray(color) * (1.0 - darker[..., None]), 0.0, 1.0)
    texture = np.full((TEXTURE_PX, TEXTURE_PX, 4), 255, np.uint8)
    texture[..., :3] = np.rint(255.0 * linear ** (1.0 / 2.2))
    return texture


def _pattern(kind: TableTexture, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Where a texture is darker, [TEXTURE_PX,TEXTURE_PX] in [0, 1]."""
    if kind == "flat":
        return np.zeros((TEXTURE_PX, TEXTURE_PX))
    if kind == "checker":
        rows, columns = np.indices((TEXTURE_PX, TEXTURE_PX)) // int(rng.choice([4, 8, 16]))
        return ((rows + columns) % 2).astype(np.float64)
    # Noise of a few knots, more of them along one side than along the other: from clouds to boards.
    pattern = rng.random([int(knots) for knots in rng.choice([4, 8, 16, 32], 2)])
    places = np.linspace(0.0, 1.0, TEXTURE_PX)
    for axis in (0, 1):
        pattern = np.apply_along_axis(
            lambda line: np.interp(places, np.linspace(0.0, 1.0, len(line)), line), axis, pattern
        )
    return pattern
