"""What crosses the model's border when it acts: an observation in, an action chunk out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blm.model.embodiments import EMBODIMENTS
from blm.model.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What a robot sees and feels at one moment, with its task. UserError for wrong shapes, types or values."""

    images: dict[str, np.ndarray]
    """Camera name -> uint8 [H, W, 3]."""
    state: np.ndarray
    """float32 [S]: of our robots arm joint positions (rad), then gripper opening in [0 closed, 1 open]; of others what
    they were trained with."""
    instruction: str
    """The task in words."""
    embodiment: str
    """Name of the robot body: one of `blm.model.embodiments`, or what the model was trained for besides."""

    def __post_init__(self) -> None:
        body = EMBODIMENTS.get(self.embodiment)  # other robots are checked by the policy, which stores their layouts
        if body is not None and np.shape(self.state) != (body.state_dim,):
            raise UserError(
                f"state has shape {np.shape(self.state)}; {self.embodiment} needs [{body.state_dim}]: "
                + ", ".join(body.state_names)
            )
        if np.ndim(self.state) != 1:
            raise UserError(f"state has shape {np.shape(self.state)}; send one list of numbers")
        if not np.isfinite(self.state).all():
            raise UserError("state holds NaN or infinite values; send measured joint positions")
        if not self.instruction.strip():
            raise UserError("instruction is empty; say what the robot should do")
        for camera, image in self.images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise UserError(f"image {camera!r} is {image.dtype} {list(image.shape)}; send uint8 [H, W, 3] RGB")


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionChunk:
    """The next H actions of a robot, one a control step."""

    actions: np.ndarray
    """float32 [H, A]: of our robots absolute arm joint targets (rad), then gripper command in [0 closed, 1 open]."""
    control_hz: int
    """Control steps per second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeTiming:
    """Where the time of one pass went, all its observations together."""

    preprocess_ms: float
    """Checks, and pictures put into one block of memory."""
    mllm_ms: float
    """What the policy makes of pictures and instructions: for ours the multimodal model up to block k."""
    denoise_ms: float
    """From there to actions in robot units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionPrefix:
    """What is left of the chunk in execution when the next one is asked for. UserError for wrong shapes or values."""

    actions: np.ndarray
    """float32 [P, A] in the units of an `ActionChunk`, P >= 1; row 0 belongs to the moment of the observation, as row 0
    of the new chunk does."""
    frozen: int
    """Rows, from 0 to P, that will have been executed before the new chunk can be used."""

    def __post_init__(self) -> None:
        if np.ndim(self.actions) != 2 or not len(self.actions) or not np.isfinite(self.actions).all():
            raise UserError(f"a prefix of shape {list(np.shape(self.actions))}; send finite numbers, a row an action")
        if not 0 <= self.frozen <= len(self.actions):
            raise UserError(f"{self.frozen} frozen rows of a prefix of {len(self.actions)}; freeze rows that are there")


Prefixes = Sequence[ActionPrefix | None]
"""For each observation of a batch what is left of the chunk in execution, if the policy is to go on from it."""


def join_prefixes(parts: Sequence[tuple[Prefixes | None, int]]) -> Prefixes | None:
    """Prefixes of several requests as those of one, in order; None if there are none at all.

    parts: of each request its prefixes, and its number of observations.
    """
    if all(prefixes is None for prefixes, _ in parts):
        return None
    return [one for prefixes, count in parts for one in (prefixes if prefixes is not None else [None] * count)]


def refuse_prefixes(name: str, prefixes: Prefixes | None) -> None:
    """UserError if there is a prefix: for policies that cannot go on from one."""
    if prefixes is not None and any(prefix is not None for prefix in prefixes):
        raise UserError(f"{name} cannot go on from a chunk in execution (real_time); set the mode to plain or ensemble")
