"""What clients send, made into observations: names of cameras and robots, shapes, sizes, seeds.

All of it is untrusted; what does not fit is told in one line that says what to send instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from blm.model.description import PolicyDescription
from blm.model.errors import UserError
from blm.model.layout import Layout
from blm.model.types import ActionPrefix, Observation
from blm.serve.web.codec import decode_picture

LONGEST_NAME = 64
"""Characters of a robot's name; what is longer is not repeated in an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """How a server understands observations that do not say everything."""

    description: PolicyDescription
    """What the policy needs."""
    robot: str = ""
    """Whose they are when a client does not say; a policy with one robot needs none."""
    cameras: Mapping[str, str] = field(default_factory=dict)
    """A client's name of a camera -> ours."""
    resize: bool = False
    """Whether square pictures of another size are resized; otherwise they are refused."""

    def layout(self, robot: Any) -> Layout:
        """The robot that a client names, or else the one that is known. UserError if there is none such."""
        robots = self.description.robots
        named = robot or self.robot or (robots[0] if len(robots) == 1 else "")
        if not isinstance(named, str) or not 0 < len(named) <= LONGEST_NAME:
            raise UserError(f"which robot is it? send 'embodiment': one of {', '.join(robots)}")
        return self.description.layout(named)

    def observation(self, images: Mapping[Any, Any], state: Any, instruction: Any, robot: Any) -> Observation:
        """An observation; cameras that the policy does not look through are left out.

        images: camera -> uint8 [H, W, 3], the bytes of a PNG or JPEG, or a data URI of them. UserError for whatever
        does not fit.
        """
        if not isinstance(instruction, str):
            raise UserError("the instruction is missing; send the task in words")
        layout = self.layout(robot)
        wanted = self.description.cameras
        pictures = {self.cameras.get(str(name), str(name)): picture for name, picture in images.items()}
        if missing := [camera for camera in wanted if camera not in pictures]:
            raise UserError(f"no picture of camera {missing[0]!r}; this policy looks through {list(wanted)}")
        return Observation(
            images={camera: self._picture(camera, pictures[camera]) for camera in wanted},
            state=_state(state, layout),
            instruction=instruction,
            embodiment=layout.name,
        )

    def _picture(self, camera: str, picture: Any) -> npt.NDArray[np.uint8]:
        px = self.description.image_px
        if isinstance(picture, bytes | str):
            picture = decode_picture(picture, camera)
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
            form = f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else _kind(picture)
            raise UserError(f"the picture of {camera!r} is {form}; send uint8 [{px}, {px}, 3] RGB")
        height, width = picture.shape[:2]
        if (height, width) == (px, px):
            return picture
        if not self.resize or height != width or not height:
            raise UserError(f"the picture of {camera!r} is {width}x{height}; send {px}x{px}")
        return np.asarray(Image.fromarray(picture).resize((px, px), Image.Resampling.BILINEAR))


def _kind(value: Any) -> str:
    return type(value).__name__


def _state(state: Any, layout: Layout) -> npt.NDArray[np.float32]:
    try:
        numbers = np.asarray(state if state is not None else [])
    except ValueError:  # lists of different lengths
        numbers = np.asarray([])
    if numbers.dtype.kind not in "iuf" or numbers.shape != (layout.state_dim,):
        raise UserError(
            f"a state of shape {list(numbers.shape)}; {layout.name} needs {layout.state_dim} numbers:"
            f" {', '.join(layout.state_names)}"
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return numbers.astype(np.float32)


def read_seed(value: Any, otherwise: int) -> int:
    """The noise seed a client sent, if it sent one. UserError for what is none."""
    if value is None:
        return otherwise
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= int(value) < 2**63:
        raise UserError("'seed' must be a whole number from 0 to 2^63 - 1")
    return int(value)


def read_prefix(value: Any) -> ActionPrefix | None:
    """What is left of a chunk in execution, if a client sent it. UserError for what is none."""
    if value is None:
        return None
    actions, frozen = (value.get("actions"), value.get("frozen")) if isinstance(value, dict) else (None, None)
    if not isinstance(actions, np.ndarray) or type(frozen) is not int:
        raise UserError("a prefix is a map with actions (an array) and frozen (a number of its rows)")
    return ActionPrefix(actions=actions.astype(np.float32), frozen=frozen)


def check_rows(what: str, value: Any, count: int) -> Sequence[Any]:
    """The list, if it has one entry an observation. UserError otherwise."""
    if not isinstance(value, list) or len(value) != count:
        raise UserError(f"'{what}' must be a list with one entry an observation")
    return value
