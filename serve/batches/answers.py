"""What the policy's service gives back: a chunk of actions, and where the time of its answer went."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from blm.model.types import ActionChunk, ComputeTiming, Observation, Prefixes


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Where the time of one answer went."""

    queue_ms: float
    """Waiting for company in the batch, and for the batch before."""
    preprocess_ms: float
    """Of the whole batch: checks, and pictures put into one block of memory."""
    mllm_ms: float
    """Of the whole batch: the multimodal model's lower blocks."""
    denoise_ms: float
    """Of the whole batch: the policy."""
    total_ms: float
    """In the server altogether, decoding included."""
    batch: int
    """Observations in the batch."""

    def to_wire(self) -> dict[str, float | int]:
        """Plain data, to the microsecond."""
        parts = ("queue_ms", "preprocess_ms", "mllm_ms", "denoise_ms", "total_ms")
        return {**{part: round(getattr(self, part), 3) for part in parts}, "batch": self.batch}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A chunk, and what it took."""

    chunk: ActionChunk
    timing: Timing


class Compute(Protocol):
    """Computes one batch."""

    async def __call__(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        """A chunk for each observation. UserError for a bad one, which fails the whole call."""


class Answering(Protocol):
    """A policy in this process."""

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """A chunk for each observation."""


class InThread:
    """A `Compute` over a policy of any kind, in a thread of its own.

    What does not say how long its parts took is counted as denoising.
    """

    def __init__(self, policy: Answering) -> None:
        self._policy = policy
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")  # ends when nobody holds it

    async def __call__(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        """As `Compute`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._compute, observations, seeds, prefixes)

    def _compute(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        timed = getattr(self._policy, "infer_timed", None)
        if timed is not None:
            chunks, timing = timed(observations, seeds, prefixes)
            return chunks, timing
        began_s = time.perf_counter()
        chunks = self._policy.infer_batch(observations, seeds, prefixes)
        took_ms = 1e3 * (time.perf_counter() - began_s)
        return chunks, ComputeTiming(preprocess_ms=0.0, mllm_ms=0.0, denoise_ms=took_ms)


def timing_of(compute: ComputeTiming, *, queue_ms: float, batch: int) -> Timing:
    """Of a request that waited before its pass; what it took altogether is filled in by who knows when it came."""
    return Timing(
        queue_ms=queue_ms,
        preprocess_ms=compute.preprocess_ms,
        mllm_ms=compute.mllm_ms,
        denoise_ms=compute.denoise_ms,
        total_ms=0.0,
        batch=batch,
    )
