"""Connections to a policy server: opened when needed, kept, opened again when lost, waited for until a deadline.

A request may be repeated on another connection, so what is asked must not depend on what was asked before. Thread-safe:
each thread that asks has a connection to itself while it does.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from blm.model.wire import MAX_FRAME_BYTES

Answer = TypeVar("Answer")

TRIES = 3
"""Times that a request is sent before connections which break under it are taken for an answer."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_LEAST_S = 1e-3


class ServerError(Exception):
    """A server could not answer, or answered what it was not asked."""


class ServerTimeoutError(ServerError):
    """A server did not answer in time."""


class Deadline:
    """A moment until which one may wait."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until_s = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Time left; at least a millisecond, since 0 means forever to some."""
        return max(self._until_s - time.monotonic(), _LEAST_S)

    @property
    def over(self) -> bool:
        """Whether it has passed."""
        return time.monotonic() >= self._until_s


class Line:
    """One open connection, and what the server said of itself when it was opened."""

    def __init__(self, url: str, deadline: Deadline, headers: Mapping[str, str]) -> None:
        """OSError, TimeoutError or WebSocketException if nobody answers there."""
        self.greeting: Any = None
        self.sent = 0
        """Messages sent so far."""
        self._socket: ClientConnection = connect(
            url,
            additional_headers=headers,
            compression=None,
            max_size=MAX_FRAME_BYTES,
            open_timeout=deadline.left_s,
            close_timeout=1,
            ping_interval=None,  # a server may hold its interpreter for a while; deadlines are kept here
            proxy=None,
        )

    def send(self, frame: bytes, deadline: Deadline) -> None:
        """Send a message. ConnectionClosed if it cannot be sent in time."""
        left_s = deadline.left_s
        timeout = struct.pack("ll", int(left_s), int(1e6 * (left_s % 1)))
        self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self._socket.send(frame)
        self.sent += 1

    def receive(self, deadline: Deadline) -> bytes | str:
        """The next message. TimeoutError if there is none in time, ConnectionClosed if there will be none."""
        return self._socket.recv(deadline.left_s)

    def close(self) -> None:
        """Hang up; what may still come is not waited for."""
        with contextlib.suppress(OSError, WebSocketException):
            self._socket.socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError, WebSocketException):
            self._socket.close()


class Lines:
    """All connections of a client."""

    def __init__(
        self, url: str, greet: Callable[[Line, Deadline], Any], headers: Mapping[str, str] | None = None
    ) -> None:
        """greet: the handshake; what it returns is kept as `Line.greeting`. headers: sent with it, as a key."""
        self.url = url
        self._greet = greet
        self._headers = dict(headers or {})
        self._idle: list[Line] = []
        self._lock = threading.Lock()

    def ask(self, exchange: Callable[[Line, Deadline], Answer], deadline: Deadline) -> Answer:
        """What the exchange returns, on a connection that lives.

        ServerTimeoutError if nobody answers until the deadline, ServerError if connections break again and again, and
        whatever the exchange raises. A connection on which anything went wrong is not used again: its next message
        might be the late answer to this one.
        """
        tries = 0
        while True:
            line, fresh = self._take(deadline)
            try:
                answer = exchange(line, deadline)
            except TimeoutError:
                line.close()
                raise self._too_late(deadline, "connected, but silent") from None
            except (OSError, ConnectionClosed) as error:
                line.close()
                tries += fresh
                if deadline.over:
                    raise self._too_late(deadline, error) from None
                if tries >= TRIES:
                    raise ServerError(f"{self.url} hangs up instead of answering ({error})") from None
            except BaseException:
                line.close()
                raise
            else:
                with self._lock:
                    self._idle.append(line)
                return answer

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def _take(self, deadline: Deadline) -> tuple[Line, bool]:
        """(a connection, whether it was opened just now)."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), False
        return self._open(deadline), True

    def _open(self, deadline: Deadline) -> Line:
        """A new connection; a server that is not there may be starting, so it is tried until the deadline."""
        pause_s = _FIRST_PAUSE_S
        while True:
            line: Line | None = None
            try:
                line = Line(self.url, deadline, self._headers)
                line.greeting = self._greet(line, deadline)
                return line
            except (OSError, WebSocketException, EOFError) as error:
                if line is not None:
                    line.close()
                if isinstance(error, InvalidStatus) and error.response.status_code in _FINAL:
                    raise ServerError(f"{self.url} refuses to talk ({error})") from None
                if deadline.left_s < pause_s:
                    raise self._too_late(deadline, error) from None
            except BaseException:
                if line is not None:
                    line.close()
                raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _too_late(self, deadline: Deadline, why: object) -> ServerTimeoutError:
        return ServerTimeoutError(f"no answer from {self.url} within {deadline.seconds:g} s ({why})")


_FINAL = frozenset(range(400, 500)) - {408, 425, 429}
"""Status codes of a refused handshake that will not be another one later."""
