"""When there are more replicas, and when fewer: by what they have to do, and by how long their answers take.

Ray Serve asks `replicas_wanted` a few times a second, in its controller; it bounds the answer by the pool's smallest
and largest number and waits out its delays. Replicas send what `Latencies.pressure` says as a metric of their own.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from blm.serve.config import ReplicasConfig

PRESSURE = "latency_pressure"
"""Name of the metric."""
WINDOW_S = 15.0
"""How far back latencies count."""
_MOST = 2000
_QUEUE_SHARE = 0.25
"""Part of a late answer's time that must be waiting: more replicas do not make a single pass faster."""


class Split(Protocol):
    """Where the time of one answer went."""

    @property
    def queue_ms(self) -> float:
        """Waiting for company and for the batch before."""

    @property
    def total_ms(self) -> float:
        """From the request's arrival to its answer."""


class Latencies:
    """The latencies of a replica's last answers. Belongs to one event loop."""

    def __init__(self, target_ms: float, clock: Callable[[], float] = time.monotonic) -> None:
        """target_ms: what the 95th percentile is meant to stay below; 0: whatever it is."""
        self._target_ms, self._clock = target_ms, clock
        self._seen: deque[tuple[float, float, float]] = deque(maxlen=_MOST)

    def add(self, timing: Split) -> None:
        """One observation was answered."""
        if self._target_ms:
            self._seen.append((self._clock(), timing.total_ms, timing.queue_ms))

    def pressure(self) -> float:
        """95th percentile over the target: above 1 this replica is late.

        At most 1 where the late answers hardly waited, since then another replica would not help; 0 without a target
        and without answers.
        """
        oldest = self._clock() - WINDOW_S
        while self._seen and self._seen[0][0] < oldest:
            self._seen.popleft()
        if not self._seen:
            return 0.0
        _, total_ms, queue_ms = sorted(self._seen, key=lambda one: one[1])[math.ceil(0.95 * len(self._seen)) - 1]
        pressure = total_ms / self._target_ms
        return pressure if queue_ms >= _QUEUE_SHARE * total_ms else min(pressure, 1.0)


def replicas_wanted(context: Any) -> tuple[float, dict[str, Any]]:
    """How many replicas a pool should have: enough for its requests, and so many that their answers are in time.

    context: Ray Serve's `AutoscalingContext`. As in Kubernetes' autoscaler, replicas that are late by a factor are
    multiplied by it, by 2 at most at a time. It crosses to the controller by value, so it uses nothing of this module
    but plain constants.
    """
    running = max(context.current_num_replicas, 1)
    wanted = context.total_num_requests / context.config.get_target_ongoing_requests()
    pressures = [float(value) for value in (context.aggregated_metrics or {}).get(PRESSURE, {}).values()]
    if pressures:
        wanted = max(wanted, running * min(sum(pressures) / len(pressures), 2.0))
    return wanted, {}


def autoscaling(replicas: ReplicasConfig) -> dict[str, Any]:
    """Options of `serve.deployment` for a pool: a fixed number of replicas, or Ray Serve's autoscaling."""
    if replicas.min == replicas.max:
        return {"num_replicas": replicas.min}
    return {
        "autoscaling_config": {
            "min_replicas": replicas.min,
            "max_replicas": replicas.max,
            "target_ongoing_requests": replicas.ongoing,
            "upscale_delay_s": replicas.more_after_s,
            "downscale_delay_s": replicas.fewer_after_s,
            "look_back_period_s": min(max(replicas.more_after_s, 2.0), 30.0),
            "policy": {"policy_function": f"{__name__}:{replicas_wanted.__name__}"},
        }
    }
