"""One port for every client: the one that speaks first says which protocol it speaks; openpi's waits to be spoken to.

openpi's metadata must not be sent at once, since vla-eval's client takes the first frame for the answer to its hello.
"""

import asyncio
import contextlib
from collections.abc import Callable

from blm.model.errors import UserError
from blm.model.wire import unpack_map
from blm.serve.policy_protocols import (
    UNREADABLE,
    Dialect,
    HungUpError,
    PolicyService,
    Session,
    SessionConfig,
    Transport,
)
from blm.serve.policy_protocols_blm import BlmSession
from blm.serve.policy_protocols_openpi import OpenpiSession
from blm.serve.policy_protocols_vla_eval import VlaEvalSession

SESSIONS: dict[str, Callable[[PolicyService, SessionConfig], Session]] = {
    "blm": BlmSession,
    "openpi": OpenpiSession,
    "vla-eval": VlaEvalSession,
}


class Peeked:
    """A transport whose first frame can be looked at before it is received."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._first: asyncio.Task[bytes | str] | None = None

    async def peek(self, timeout_s: float) -> bytes | str | None:
        """The first frame, which `receive` will return again; None if there is none in time."""
        self._first = asyncio.create_task(self._receive())
        done, _ = await asyncio.wait({self._first}, timeout=timeout_s)
        return self._first.result() if done else None  # what has not come yet goes on being waited for

    async def _receive(self) -> bytes | str:
        return await self._transport.receive()

    async def receive(self) -> bytes | str:
        """As `Transport`."""
        first, self._first = self._first, None
        return await (first if first is not None else self._transport.receive())

    async def send(self, frame: bytes | str) -> None:
        """As `Transport`."""
        await self._transport.send(frame)

    async def close(self, code: int, reason: str) -> None:
        """As `Transport`."""
        await self._transport.close(code, reason)


def spoken(frame: bytes | str) -> Dialect | None:
    """Whose first message a frame is."""
    with contextlib.suppress(UserError):
        message = unpack_map(frame)
        if message.get("protocol") == "blm":
            return "blm"
        if message.get("type") == "hello" and "payload" in message:
            return "vla-eval"
    return None


def make_session(dialect: Dialect, service: PolicyService, config: SessionConfig) -> Session:
    """A session of a dialect that is known."""
    assert dialect != "auto", "find out first"
    return SESSIONS[dialect](service, config)


async def converse(transport: Transport, service: PolicyService, config: SessionConfig, dialect: Dialect) -> None:
    """Hold one whole conversation, in a dialect or in the one the client turns out to speak."""
    with service.client(), contextlib.suppress(HungUpError):
        peeked = Peeked(transport)
        if dialect == "auto":
            frame = await peeked.peek(config.grace_s)
            found = "openpi" if frame is None else spoken(frame)
            if found is None:
                await transport.close(UNREADABLE, "speak blm, vla-eval or openpi")
                return
            dialect = found
        await make_session(dialect, service, config).run(peeked)
