"""What a replica counts about itself, for Prometheus: answers and where their time went, batches, refusals, sessions.

Each replica has one `Metrics`, handed to whatever has something to tell; nothing here is global, so two of them in one
process do not mix. Telling costs a few microseconds and never raises. `metrics_page.py` makes the page `/metrics`.

Labels are bounded: robots and protocols are known ones, paths are the server's own, and a reason that nobody has heard
of becomes `other` once there are too many. What a client sends never becomes a label by itself.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PARTS = ("queue", "preprocess", "mllm", "denoise", "total")
"""Parts of an answer's time, as in `Split`."""
MOST_REASONS = 64
OTHER = "other"
_PLAIN = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
_REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_OBSERVATIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Split(Protocol):
    """Where the time of one answer went, in ms."""

    @property
    def queue_ms(self) -> float:
        """Waiting for company and for the batch before."""

    @property
    def preprocess_ms(self) -> float:
        """Pictures and words to tensors, of the whole batch, as the next two."""

    @property
    def mllm_ms(self) -> float:
        """The multimodal model's lower blocks."""

    @property
    def denoise_ms(self) -> float:
        """The policy."""

    @property
    def total_ms(self) -> float:
        """From the request's arrival to its answer."""


class Metrics:
    """One replica's numbers."""

    def __init__(self, *, replica: str = "local", role: str = "unified") -> None:
        """replica: its name, a label of everything it says. role: `unified`, `chat` or `control`."""
        self.replica, self.role = replica, role
        self.registry = CollectorRegistry()
        self._reasons: set[str] = set()
        registry = self.registry
        up = Gauge("blm_replica_up", "1 for each replica that answers, by role; their sum is the number of replicas.",
                   registry=registry)  # fmt: skip
        up.set(1)
        self._model = Gauge(
            "blm_model_info", "1, with the served policy's kind and identity.", ["policy", "identity"],
            registry=registry,
        )  # fmt: skip
        parts = Histogram(
            "blm_action_seconds", "Time to an action chunk by part; `total`: from the request's arrival to its answer.",
            ["part"], buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._parts = {part: parts.labels(part) for part in PARTS}
        self._answers = Counter(
            "blm_actions_answered", "Observations answered with a chunk, by robot and protocol.", ["robot", "protocol"],
            registry=registry,
        )  # fmt: skip
        self._rows = Counter("blm_actions_given", "Actions in these chunks: chunk rows.", ["robot"], registry=registry)
        self._batches = Histogram(
            "blm_batch_observations", "Observations in one forward pass.", buckets=_OBSERVATIONS, registry=registry
        )
        self._queue = Gauge("blm_queue_observations", "Observations that wait for a pass.", registry=registry)
        self._overflowed = Counter(
            "blm_overflowed", "Observations handed on to the control replicas.", registry=registry
        )
        self._refused = Counter(
            "blm_refused", "Requests and messages refused, by status and reason.", ["status", "reason"],
            registry=registry,
        )  # fmt: skip
        self._open = Gauge("blm_sessions_open", "WebSocket conversations now, by protocol.", ["protocol"],
                           registry=registry)  # fmt: skip
        self._opened = Counter("blm_sessions", "WebSocket conversations begun, by protocol.", ["protocol"],
                               registry=registry)  # fmt: skip
        self._requests = Counter(
            "blm_requests", "HTTP requests answered, by path and status.", ["path", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "blm_request_seconds", "Time of an HTTP request to the end of its answer, streams included.", ["path"],
            buckets=_REQUEST_SECONDS, registry=registry,
        )  # fmt: skip
        self._running = Gauge("blm_requests_running", "HTTP requests that are being answered.", registry=registry)

    # ------------------------------------------------------------------------------------------------------- actions

    def answered(self, timing: Split, *, robot: str, protocol: str, actions: int = 0) -> None:
        """One observation was answered. actions: rows of its chunk. robot: one the policy knows."""
        for part in PARTS:
            self._parts[part].observe(max(float(getattr(timing, f"{part}_ms")), 0.0) / 1e3)
        self._answers.labels(robot, protocol).inc()
        self._rows.labels(robot).inc(actions)

    def computed(self, observations: int) -> None:
        """One forward pass took so many observations."""
        self._batches.observe(observations)

    def overflowed(self, observations: int = 1) -> None:
        """So many observations were handed on to the control replicas."""
        self._overflowed.inc(observations)

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        """Ask this, whenever somebody reads, how many observations wait."""
        self._queue.set_function(waiting)

    def serves(self, policy: str, identity: str) -> None:
        """What is served: the kind of policy and the hash of its checkpoint."""
        self._model.clear()
        self._model.labels(policy, identity).set(1)

    # -------------------------------------------------------------------------------------------------------- doors

    def refused(self, status: int, reason: str) -> None:
        """A request or message was refused.

        status: of HTTP, or the WebSocket's close code. reason: a word or two of the server's own (`no key`, `rate`,
        `full`, ...), never anything that a client sent.
        """
        reason = reason.replace(" ", "_")
        if reason not in self._reasons and (len(self._reasons) >= MOST_REASONS or not _PLAIN.fullmatch(reason)):
            reason = OTHER
        self._reasons.add(reason)
        self._refused.labels(str(int(status)), reason).inc()

    @contextmanager
    def session(self, protocol: str) -> Iterator[None]:
        """Held while a WebSocket conversation in that protocol lasts."""
        self._opened.labels(protocol).inc()
        with self._open.labels(protocol).track_inprogress():
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """Held while an HTTP request is answered."""
        with self._running.track_inprogress():
            yield

    def requested(self, path: str, status: int, seconds: float) -> None:
        """An HTTP request was answered. path: of the server's own, or `other`."""
        self._requests.labels(path, str(int(status))).inc()
        self._request_seconds.labels(path).observe(seconds)
