"""Conversations with clients that want actions: what the sessions of all protocols share.

A session is one conversation over one connection. It knows a `Transport` (frames in, frames out) and a `PolicyService`
(observations in, chunks out) and nothing of sockets, servers or Ray, so that the plain server and Ray Serve host the
same objects.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from blm.model.description import PolicyDescription
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes
from blm.model.wire import unpack_map

Dialect = Literal["auto", "blm", "openpi", "vla-eval"]

INLINE_BYTES = 2**15
"""Larger messages are read in a thread: unpacking pictures must not hold up other connections."""
UNREADABLE, FAILED = 1007, 1011
"""WebSocket close codes: not of this protocol; the server's fault."""


class HungUpError(Exception):
    """The other side is gone."""


class BusyError(Exception):
    """Too many observations are waiting."""


class Transport(Protocol):
    """One connection."""

    async def receive(self) -> bytes | str:
        """The next frame; `HungUpError` when there will be none."""

    async def send(self, frame: bytes | str) -> None:
        """Send a binary or text frame; `HungUpError` if nobody is there."""

    async def close(self, code: int, reason: str) -> None:
        """End the connection."""


class PolicyService(Protocol):
    """A policy that answers many sessions."""

    description: PolicyDescription

    async def infer(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """A chunk for each observation. UserError for a bad observation, `BusyError`, or whatever the policy raises."""

    def client(self) -> AbstractContextManager[None]:
        """Held while a connection lasts."""


class Session(Protocol):
    """A conversation in one protocol."""

    async def run(self, transport: Transport) -> None:
        """Answer until the other side hangs up (`HungUpError`) or the connection has been closed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionConfig:
    """How clients are understood that do not say everything. UserError for a wait that is none."""

    dialect: Dialect = "auto"
    """Spoken at `/`; each has a place of its own besides."""
    robot: str = ""
    """Whose observations they are when a client does not say; a policy with one robot needs none."""
    cameras: Mapping[str, str] = field(default_factory=dict)
    """A client's name of a camera -> ours."""
    resize: bool = False
    """Whether square pictures of another size are resized; otherwise they are refused."""
    grace_s: float = 0.25
    """How long a client may take to speak first before it is spoken to; longer than a round trip to it."""

    def __post_init__(self) -> None:
        if not 0 < self.grace_s <= 10:
            raise UserError(f"grace_s is {self.grace_s}; give a time above 0 and up to 10 s")


def read_observation(
    images: Mapping[Any, Any],
    state: Any,
    instruction: Any,
    robot: Any,
    *,
    description: PolicyDescription,
    config: SessionConfig,
) -> Observation:
    """An observation of what a client sent; cameras that the policy does not look through are left out.

    UserError, in one line, for whatever does not fit.
    """
    if not isinstance(instruction, str):
        raise UserError("the instruction is missing; send the task in words")
    named = robot or config.robot or (description.robots[0] if len(description.robots) == 1 else "")
    if not isinstance(named, str) or not named:
        raise UserError(f"which robot is it? send 'embodiment': one of {', '.join(description.robots)}")
    layout = description.layout(named)
    pictures = {config.cameras.get(str(name), str(name)): picture for name, picture in images.items()}
    if missing := [camera for camera in description.cameras if camera not in pictures]:
        raise UserError(f"no picture of camera {missing[0]!r}; this policy looks through {list(description.cameras)}")
    numbers = np.asarray(state if state is not None else [])
    if numbers.dtype.kind not in "iuf" or numbers.shape != (layout.state_dim,):
        raise UserError(
            f"a state of shape {list(numbers.shape)}; {layout.name} needs {layout.state_dim} numbers:"
            f" {', '.join(layout.state_names)}"
        )
    return Observation(
        images={
            camera: _picture(camera, pictures[camera], description.image_px, resize=config.resize)
            for camera in description.cameras
        },
        state=numbers.astype(np.float32),
        instruction=instruction,
        embodiment=layout.name,
    )


def _picture(camera: str, picture: Any, image_px: int, *, resize: bool) -> npt.NDArray[np.uint8]:
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
        form = f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise UserError(f"the picture of {camera!r} is {form}; send uint8 [{image_px}, {image_px}, 3] RGB")
    height, width = picture.shape[:2]
    if (height, width) == (image_px, image_px):
        return picture
    if not resize or height != width:
        raise UserError(f"the picture of {camera!r} is {width}x{height}; send {image_px}x{image_px}")
    return np.asarray(Image.fromarray(picture).resize((image_px, image_px), Image.Resampling.BILINEAR))


def read_seed(value: Any, otherwise: int) -> int:
    """The noise seed a client sent, if it sent one. UserError for what is none."""
    if value is None:
        return otherwise
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= int(value) < 2**63:
        raise UserError("'seed' must be a whole number from 0 to 2^63 - 1")
    return int(value)


async def read_message(frame: bytes | str) -> dict[Any, Any]:
    """A frame's map, large ones unpacked off the event loop. UserError for what is none."""
    if len(frame) < INLINE_BYTES:
        return unpack_map(frame)
    return await asyncio.to_thread(unpack_map, frame)
