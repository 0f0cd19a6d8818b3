"""Conversations with clients that want actions: what the sessions of all protocols share.

A session is one conversation over one connection. It knows a `Transport` (frames in, frames out) and a `PolicyService`
(observations in, chunks out) and nothing of sockets, servers or Ray, so that the plain server and Ray Serve host the
same objects. What it reads of a message (observations.py) it reads in a thread, if the message is large.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from blm.model.description import PolicyDescription
from blm.model.errors import UserError
from blm.model.types import Observation, Prefixes
from blm.model.wire import unpack_map
from blm.serve.batches.answers import Answer
from blm.serve.observability.logs import log
from blm.serve.observability.metrics import Metrics
from blm.serve.sessions.contract import ContractError
from blm.serve.sessions.observations import Reader

Dialect = Literal["auto", "blm", "openpi", "starvla", "vla-eval"]
Read = TypeVar("Read")

INLINE_BYTES = 2**15
"""Larger messages are read in a thread: unpacking pictures must not hold up other connections."""
UNREADABLE, REFUSED, FAILED, RESTART = 1007, 1008, 1011, 1012
"""WebSocket close codes: not of this protocol; another model than the client wants; the server's fault; the server
stops, and whoever connects again finds another."""


class HungUpError(Exception):
    """The other side is gone."""


class BusyError(Exception):
    """Too many observations are waiting."""

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """When it may be worth to ask again."""


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
    metrics: Metrics

    async def infer(
        self,
        observations: Sequence[Observation],
        seeds: Sequence[int],
        prefixes: Prefixes | None = None,
        *,
        protocol: str = "control",
        began_s: float | None = None,
    ) -> list[Answer]:
        """A chunk for each observation, with its timing.

        protocol: how they came, for the metrics; `control`: from another replica. began_s: when the message did
        (`time.perf_counter`), from which total_ms counts. UserError for a bad observation, `BusyError`, or whatever the
        policy raises.
        """

    def client(self, protocol: str) -> AbstractContextManager[None]:
        """Held while a connection lasts."""


class Session(Protocol):
    """A conversation in one protocol."""

    @property
    def resting(self) -> bool:
        """Whether the conversation may end here without harm: no episode is going on, or the client would just connect
        again."""

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

    def reader(self, description: PolicyDescription) -> Reader:
        """What reads a client's observations for a policy."""
        return Reader(description=description, robot=self.robot, cameras=self.cameras, resize=self.resize)


async def read(frame: bytes | str, understand: Callable[[dict[Any, Any]], Read]) -> Read:
    """What is understood of a frame's map; of large ones off the event loop, pictures decoded and resized with it.

    UserError for what is no message, or what does not fit.
    """
    if len(frame) < INLINE_BYTES:
        return understand(unpack_map(frame))
    return await asyncio.to_thread(lambda: understand(unpack_map(frame)))


def complaint(error: Exception, metrics: Metrics) -> str:
    """What a client is told of a request that failed, in one line. It is counted, and what is our fault is logged."""
    if isinstance(error, BusyError):
        metrics.refused(503, "busy")
        return str(error)
    if isinstance(error, UserError):
        metrics.refused(400, "contract" if isinstance(error, ContractError) else "bad_observation")
        return str(error)
    metrics.refused(500, "policy_failed")
    log("policy_failed", level=logging.ERROR, error=error)
    return f"the policy failed ({type(error).__name__})"
