"""A WebSocket behind the guard: its messages are bounded and paced, and silence ends it."""

import asyncio

from starlette.types import Message, Receive, Scope, Send

from blm.serve.guard.config import GuardConfig
from blm.serve.guard.entry import PROTOCOL
from blm.serve.guard.errors import TOO_BIG
from blm.serve.guard.rooms import Rooms

GOING_AWAY = 1001


class GuardedSocket:
    """What an application sees of one WebSocket: `receive` and `send`."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, key: str, config: GuardConfig, rooms: Rooms
    ) -> None:
        self._offered = PROTOCOL in scope.get("subprotocols", ())
        self._receive = receive
        self._send = send
        self._key = key
        self._config = config
        self._rooms = rooms
        self._waiting: asyncio.Timeout | None = None
        self.accepted = False
        self.closed = False
        self.gone = False
        """Whether the client left, or takes nothing any more."""
        self.refusal = ""
        """Why the guard closed it, in a word or two; "" if it did not."""

    async def receive(self) -> Message:
        """The next message. One that is too large, and too long a silence, close the connection."""
        if self.closed:
            return {"type": "websocket.disconnect", "code": GOING_AWAY}
        if self.accepted:
            await self._rooms.pace(self._key)
        try:
            async with asyncio.timeout(self._config.idle_s) as self._waiting:
                message = await self._receive()
        except TimeoutError:
            return await self._end(GOING_AWAY, f"silent for {self._config.idle_s:g} s", "idle")
        finally:
            self._waiting = None
        if message["type"] == "websocket.disconnect":
            self.closed = self.gone = True
        if len(message.get("bytes") or message.get("text") or b"") > self._config.max_message_bytes:
            reason = f"a message of more than {self._config.max_message_bytes} bytes"
            return await self._end(TOO_BIG, reason, "size")
        return message

    async def send(self, message: Message) -> None:
        """Send a message. OSError if the client does not take it in time."""
        if message["type"] == "websocket.accept":
            self.accepted = True
            if self._offered and not message.get("subprotocol"):
                message = {**message, "subprotocol": PROTOCOL}
        elif message["type"] == "websocket.close":
            if self.closed:
                return
            self.closed = True
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time() + self._config.idle_s)
        try:
            await within(self._config.send_s, self._send, message)
        except OSError as error:
            self.closed = self.gone = True
            self.refusal = "unread" if isinstance(error, TimeoutError) else ""
            raise

    async def close(self, code: int, reason: str) -> None:
        """Close it, if it is open."""
        if not self.closed:
            await self.send({"type": "websocket.close", "code": code, "reason": reason})

    async def _end(self, code: int, message: str, reason: str) -> Message:
        self.refusal = reason
        await self.close(code, message)
        return {"type": "websocket.disconnect", "code": code, "reason": message}


async def within(seconds: float, send: Send, message: Message) -> None:
    """Send within a time. TimeoutError, which is an OSError, says that nobody reads."""
    async with asyncio.timeout(seconds):
        await send(message)
