"""Connections before there is a request: what Uvicorn leaves open, for whichever of its servers runs us.

An ASGI application hears of a request when its header is complete. Uvicorn waits for that without end and keeps
whatever comes, so a client that sends a header byte by byte holds a connection for as long as it likes, and one that
never ends its header fills the memory. The class here bounds both, follows bodies that nobody reads any more, and lets
the kernel give up on peers that are gone or take nothing.

Ray Serve starts Uvicorn itself, in its proxies and in replicas that are asked directly, and lets nobody choose its
protocol class. But it calls a function of ours first, which it finds by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH;
that one makes the class Uvicorn's own choice in that process. The limits travel in an environment variable.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from blm.serve.guard.config import GuardConfig

VARIABLE = "BLM_CONNECTION_LIMITS"
CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_KEEPALIVE_S, _KEEPALIVE_PROBES = 60, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionLimits:
    """The part of `GuardConfig` that concerns connections; the fields are the same."""

    header_s: float
    max_header_bytes: int
    max_message_bytes: int
    send_s: float
    ping_s: float
    pong_s: float

    @classmethod
    def of(cls, config: GuardConfig) -> "ConnectionLimits":
        """Those of a configuration."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})


class GuardedConnection(HttpToolsProtocol):
    """Uvicorn's connection with bounds. `connection_class` gives it limits."""

    limits: ClassVar[ConnectionLimits] = ConnectionLimits.of(GuardConfig())

    def __init__(self, config: uvicorn.Config, *rest: Any, **named: Any) -> None:
        # Of the server that Ray starts: it is made before we are asked, so that this is the first chance.
        config.ws_max_size = self.limits.max_message_bytes
        config.ws_ping_interval = self.limits.ping_s
        config.ws_ping_timeout = self.limits.pong_s
        config.ws_per_message_deflate = False  # to press pictures costs more than to send them, and bombs stay out
        super().__init__(config, *rest, **named)
        self._timer: asyncio.TimerHandle | None = None
        self._in_header = True
        self._in_body = False
        self._header_bytes = 0

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection on, to a protocol that also bounds how long a client may take to say goodbye."""
        make: Any = self.ws_protocol_class

        def bounded(**named: Any) -> Any:
            protocol: Any = make(**named)
            protocol.close_timeout = self.limits.header_s
            return protocol

        self.ws_protocol_class = bounded  # type: ignore[assignment]
        super().handle_websocket_upgrade()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a header, but not for ever."""
        super().connection_made(transport)
        give_up_in_time(transport.get_extra_info("socket"), self.limits.send_s)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes, of which headers may have so many."""
        self._header_bytes = self._header_bytes + len(data) if self._in_header else 0
        super().data_received(data)
        if self._in_header and self._header_bytes > self.limits.max_header_bytes:
            self._hang_up(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A header's first byte."""
        self._in_header = True
        if self._timer is None:
            self._start_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A header's last byte."""
        self._in_header, self._in_body = False, True
        self._stop_timer()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self.limits.max_header_bytes:
            self._hang_up(_TOO_LARGE)
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A body's last byte."""
        self._in_body = False
        if self.cycle is not None and self.cycle.response_complete:
            self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is out. A body that goes on coming, because it was refused, may do so for a little while."""
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self._start_timer()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self.limits.header_s, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._start_timer()  # the next header began before this answer ended; it is not looked at until then
        else:
            self._hang_up(_TOO_SLOW if self._in_header and self._header_bytes else b"")

    def _hang_up(self, last_words: bytes) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.write(last_words)
            self.transport.close()


def give_up_in_time(connection: socket.socket | None, seconds: float) -> None:
    """Let the kernel end a connection whose peer is gone, or has taken nothing for so long."""
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError, AttributeError):  # the options are Linux's; elsewhere its defaults hold
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S // _KEEPALIVE_PROBES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1e3 * seconds))


def connection_class(config: GuardConfig) -> type[GuardedConnection]:
    """For `uvicorn.Config(http=...)`: connections with a configuration's limits."""
    return type("GuardedConnection", (GuardedConnection,), {"limits": ConnectionLimits.of(config)})


def environment(config: GuardConfig) -> dict[str, str]:
    """What must be in the environment before Ray is imported, so that its servers are bounded too."""
    return {
        CALLBACK: f"{install.__module__}:{install.__name__}",
        VARIABLE: json.dumps(asdict(ConnectionLimits.of(config))),
    }


def install(variables: Mapping[str, str] = os.environ) -> list[Any]:
    """Called by Ray Serve in each process that listens, before it does; no middleware comes of it."""
    if VARIABLE in variables:
        GuardedConnection.limits = ConnectionLimits(**json.loads(variables[VARIABLE]))
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{GuardedConnection.__module__}:{GuardedConnection.__name__}"
    return []
