"""All conversations of a server: who speaks which protocol, and how they end when the server is to stop.

One port serves every client: the one that speaks first says which protocol it speaks; openpi's waits to be spoken to.
openpi's metadata must not be sent at once, since vla-eval's client takes the first frame for the answer to its hello.
"""

import asyncio
import contextlib
from collections.abc import Callable

from blm.model.errors import UserError
from blm.model.wire import unpack_map
from blm.serve.sessions.blm import BlmSession
from blm.serve.sessions.openpi import OpenpiSession
from blm.serve.sessions.session import (
    RESTART,
    UNREADABLE,
    Dialect,
    HungUpError,
    PolicyService,
    Session,
    SessionConfig,
    Transport,
)
from blm.serve.sessions.starvla import StarvlaSession
from blm.serve.sessions.vla_eval import VlaEvalSession

SESSIONS: dict[str, Callable[[PolicyService, SessionConfig], Session]] = {
    "blm": BlmSession,
    "openpi": OpenpiSession,
    "starvla": StarvlaSession,
    "vla-eval": VlaEvalSession,
}
LEAVING = "this server stops; connect again"


class Peeked:
    """A transport whose first frame can be looked at before it is received, and that can be told to end when its
    session is at rest."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._first: asyncio.Task[bytes | str] | None = None
        self._session: Session | None = None
        self._receiving = self._leaving = False

    async def peek(self, timeout_s: float) -> bytes | str | None:
        """The first frame, which `receive` will return again; None if there is none in time."""
        self._first = asyncio.create_task(self._receive())
        done, _ = await asyncio.wait({self._first}, timeout=timeout_s)
        return self._first.result() if done else None  # what has not come yet goes on being waited for

    async def _receive(self) -> bytes | str:
        return await self._transport.receive()

    async def receive(self) -> bytes | str:
        """As `Transport`; `HungUpError` between episodes once it was told to leave."""
        if self._leaving and self._session is not None and self._session.resting:
            await self._transport.close(RESTART, LEAVING)
            raise HungUpError
        first, self._first = self._first, None
        self._receiving = True
        try:
            return await (first if first is not None else self._transport.receive())
        finally:
            self._receiving = False

    async def send(self, frame: bytes | str) -> None:
        """As `Transport`."""
        await self._transport.send(frame)

    async def close(self, code: int, reason: str) -> None:
        """As `Transport`."""
        await self._transport.close(code, reason)

    async def hold(self, session: Session) -> None:
        """Run a session on this transport."""
        self._session = session
        await session.run(self)

    def end(self) -> None:
        """Wait no more for a frame that nobody will receive."""
        if self._first is not None:
            self._first.cancel()

    async def leave(self) -> None:
        """End the conversation when its session is at rest: now, if it only waits for the client."""
        self._leaving = True
        if self._receiving and self._session is not None and self._session.resting:
            await self._transport.close(RESTART, LEAVING)


class Sessions:
    """The conversations of one server. All its methods belong to one event loop."""

    def __init__(self) -> None:
        self.draining = False
        """Whether the server is about to stop: new conversations are to be refused."""
        self._open: set[Peeked] = set()
        self._nobody = asyncio.Event()
        self._nobody.set()

    @property
    def count(self) -> int:
        """Conversations now."""
        return len(self._open)

    async def converse(
        self, transport: Transport, service: PolicyService, config: SessionConfig, dialect: Dialect
    ) -> None:
        """Hold one whole conversation, in a dialect or in the one the client turns out to speak."""
        peeked = Peeked(transport)
        self._open.add(peeked)
        self._nobody.clear()
        try:
            await _converse(peeked, service, config, dialect)
        finally:
            peeked.end()
            self._open.discard(peeked)
            if not self._open:
                self._nobody.set()

    async def drain(self, within_s: float) -> None:
        """Let conversations end: between episodes at once, in an episode when it is over, and all after `within_s`.

        Clients of our own protocol, and vla-eval's harness, connect again by themselves.
        """
        self.draining = True
        for peeked in list(self._open):
            await peeked.leave()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._nobody.wait(), within_s)
        for peeked in list(self._open):
            await peeked.close(RESTART, LEAVING)


def spoken(frame: bytes | str) -> Dialect | None:
    """Whose first message a frame is."""
    with contextlib.suppress(UserError):
        message = unpack_map(frame)
        if message.get("protocol") == "blm":
            return "blm"
        if message.get("type") == "hello" and "payload" in message:
            return "vla-eval"
    return None


async def _converse(peeked: Peeked, service: PolicyService, config: SessionConfig, dialect: Dialect) -> None:
    with contextlib.suppress(HungUpError):
        if dialect == "auto":
            frame = await peeked.peek(config.grace_s)
            found = "openpi" if frame is None else spoken(frame)
            if found is None:
                await peeked.close(UNREADABLE, "speak blm, vla-eval or openpi")
                return
            dialect = found
        with service.client(dialect):
            try:
                await peeked.hold(SESSIONS[dialect](service, config))
            except UserError as error:  # the first message was none of this protocol
                await peeked.close(UNREADABLE, str(error))
