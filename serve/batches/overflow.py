"""Somebody else who computes what would wait too long here: replicas that only act."""

import asyncio
import logging
import time
from collections.abc import Sequence

from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes
from blm.serve.batches.answers import Compute, Timing, timing_of
from blm.serve.observability.logs import log
from blm.serve.observability.metrics import Metrics

MOST_ELSEWHERE = 1024
"""Observations that others are asked for at a time."""
PAUSE_S = 1.0
"""After they could not answer, they are let alone for so long."""


class Overflow:
    """Others who compute. All its methods belong to one event loop."""

    def __init__(self, compute: Compute, metrics: Metrics, *, timeout_s: float) -> None:
        """timeout_s: how long an answer is waited for."""
        self._computing, self._metrics, self._timeout_s = compute, metrics, timeout_s
        self._asked = 0
        self._not_before_s = 0.0

    async def answer(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None
    ) -> tuple[list[ActionChunk], Timing] | None:
        """Their answer; None if they cannot give one, and then the request must be answered here. UserError for a bad
        observation."""
        began_s = time.perf_counter()
        if began_s < self._not_before_s or self._asked + len(seeds) > MOST_ELSEWHERE:
            return None
        self._asked += len(seeds)
        try:
            chunks, timing = await asyncio.wait_for(self._computing(observations, seeds, prefixes), self._timeout_s)
            if len(chunks) != len(seeds):
                raise RuntimeError(f"{len(chunks)} chunks for {len(seeds)} observations")
        except UserError:
            raise
        except Exception as error:  # none is there, it is full, it died: there is still the queue
            self._not_before_s = time.perf_counter() + PAUSE_S
            log("overflow_failed", level=logging.WARNING, reason=type(error).__name__)
            return None
        finally:
            self._asked -= len(seeds)
        self._metrics.overflowed(len(seeds))
        took_ms = 1e3 * (time.perf_counter() - began_s)
        computed_ms = timing.preprocess_ms + timing.mllm_ms + timing.denoise_ms
        return chunks, timing_of(timing, queue_ms=max(took_ms - computed_ms, 0.0), batch=len(seeds))
