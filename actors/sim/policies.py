"""What a rollout asks for actions: the interface, noise seeds, the check of an answer, and the random baseline."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from blm.model.embodiments import GRIPPER_CLOSED, GRIPPER_OPEN, Embodiment, get_embodiment
from blm.model.types import ActionChunk, Observation, Prefixes

CHUNK = 16
"""Actions in a random chunk, as many as in ours."""


class PolicyError(Exception):
    """A policy that runs could not answer: a failure of the episodes that asked, not of the evaluation."""


class PolicyTimeoutError(PolicyError):
    """A policy did not answer in time. Nobody who asked is asked for again: that would wait as long once more."""


class Inference(Protocol):
    """Anything that turns observations into action chunks."""

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """A chunk for each observation; its randomness follows from its seed.

        UserError if it is given a prefix and cannot go on from one (`refuse_prefixes`).
        """


class Policy(Inference, Protocol):
    """What rollouts ask.

    Its `infer_batch` may raise PolicyError, and whatever else: the episodes that asked fail. A UserError ends the
    evaluation: nothing that could be asked of the policy would be answered.
    """

    @property
    def name(self) -> str:
        """Written beside its results."""

    @property
    def sees(self) -> bool:
        """Whether observations must hold pictures."""


def chunk_seed(cell: str, seed: int, chunk: int) -> int:
    """Noise seed in [0, 2^63) of an episode's chunk-th look; `seed` is the scene's. The same in every evaluation."""
    digest = hashlib.sha256(f"{cell} {seed} {chunk}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def check_chunk(chunk: ActionChunk, embodiment: Embodiment, *, at_least: int) -> npt.NDArray[np.float32]:
    """The chunk's actions, float32 [H, A] with H >= at_least. ValueError for another shape, rate or NaN."""
    actions = np.asarray(chunk.actions, dtype=np.float32)
    if actions.ndim != 2 or actions.shape[1] != embodiment.action_dim or len(actions) < at_least:
        raise ValueError(
            f"a chunk of shape {list(actions.shape)}; {embodiment.name} needs [{at_least} or more,"
            f" {embodiment.action_dim}]"
        )
    if not np.isfinite(actions).all():
        raise ValueError(f"a chunk with {np.count_nonzero(~np.isfinite(actions))} values that are not finite")
    if chunk.control_hz != embodiment.control_hz:
        raise ValueError(
            f"a chunk for {chunk.control_hz} Hz; {embodiment.name} is controlled at {embodiment.control_hz} Hz"
        )
    return actions


class RandomPolicy:
    """The baseline: each chunk goes to joint targets drawn uniformly round the present ones, gripper anywhere.

    It walks through the same rollout as a trained policy, so that a task which chance solves shows as such.
    """

    name = "random"
    sees = False

    def __init__(self, scale_rad: float = 0.1) -> None:
        self.scale_rad = scale_rad

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """Chunks of `CHUNK` equal targets within `scale_rad` of where each joint is, whatever was executed before."""
        return [self._chunk(observation, seed) for observation, seed in zip(observations, seeds, strict=True)]

    def _chunk(self, observation: Observation, seed: int) -> ActionChunk:
        rng = np.random.default_rng(seed)
        arm = observation.state[:-1] + rng.uniform(-self.scale_rad, self.scale_rad, len(observation.state) - 1)
        target = np.append(arm, rng.uniform(GRIPPER_CLOSED, GRIPPER_OPEN)).astype(np.float32)
        hz = get_embodiment(observation.embodiment).control_hz
        return ActionChunk(actions=np.tile(target, (CHUNK, 1)), control_hz=hz)
