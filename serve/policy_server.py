"""A plain server of one policy, without Ray: every client on one port, for evaluations and for robots.

    /                              the dialect that the client speaks (policy_protocols_auto)
    /blm  /openpi  /vla-eval       that one
    /health  /healthz              200 once the policy is loaded, as vla-eval and openpi ask
    /config                        what vla-eval's load test reads, and may set from this machine

It listens on this machine alone unless told otherwise, and knows no passwords.
"""

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from blm.model.errors import UserError
from blm.model.wire import MAX_FRAME_BYTES
from blm.serve.policy_batches import BatchConfig, BatchingService
from blm.serve.policy_protocols import Dialect, HungUpError, SessionConfig
from blm.serve.policy_protocols_auto import converse

PLACES: dict[str, Dialect] = {"/blm": "blm", "/openpi": "openpi", "/vla-eval": "vla-eval"}
SETTABLE: dict[str, tuple[str, Callable[[Any], Any], float]] = {
    "max_batch_size": ("max_batch", int, 1.0),
    "max_wait_time": ("wait_ms", float, 1e3),
}
"""Query parameter -> field of `BatchConfig`, kind, and how many of its units make one of the parameter's."""
MOST_CONNECTIONS = 256
LEAVE_S = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyServerConfig:
    """Where the server listens, and how it talks."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port; 0: any that is free."""
    session: SessionConfig = field(default_factory=SessionConfig)
    """Conversations."""
    batches: BatchConfig = field(default_factory=BatchConfig)
    """What is computed together."""


class StarletteTransport:
    """Starlette's WebSocket as sessions see it. It has been accepted."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> bytes | str:
        """As `Transport`."""
        try:
            message = await self._websocket.receive()
        except (WebSocketDisconnect, RuntimeError) as error:
            raise HungUpError from error
        if message["type"] != "websocket.receive":
            raise HungUpError
        data: bytes | str | None = message.get("bytes")
        return data if data is not None else str(message.get("text") or "")

    async def send(self, frame: bytes | str) -> None:
        """As `Transport`."""
        try:
            await (self._websocket.send_bytes(frame) if isinstance(frame, bytes) else self._websocket.send_text(frame))
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            raise HungUpError from error

    async def close(self, code: int, reason: str) -> None:
        """As `Transport`."""
        with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):
            await self._websocket.close(code, reason)


def build_policy_app(service: BatchingService, config: SessionConfig) -> Starlette:
    """The ASGI application of a policy."""

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await converse(StarletteTransport(websocket), service, config, PLACES.get(websocket.url.path, config.dialect))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("OK\n")

    async def configuration(request: Request) -> Response:
        return configure(service, dict(request.query_params), from_here=_is_local(request))

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/healthz", healthz),
            Route("/config", configuration),
            *(WebSocketRoute(place, talk) for place in ("/", *PLACES)),
        ]
    )


def configure(service: BatchingService, wanted: dict[str, str], *, from_here: bool) -> JSONResponse:
    """Set what is wanted and may be set, and say what holds now; 422 if nothing that was wanted could be set."""
    applied: dict[str, Any] = {}
    errors: list[str] = []
    for name, text in wanted.items():
        if name not in SETTABLE:
            errors.append(f"unknown key: {name[:40]}")
        elif not from_here:
            errors.append(f"{name} can be set from the server's own machine alone")
        else:
            field_name, kind, units = SETTABLE[name]
            try:
                service.config = replace(service.config, **{field_name: kind(kind(text) * units)})
                applied[name] = kind(text)
            except (ValueError, OverflowError, UserError) as error:
                errors.append(f"bad value for {name}: {error}")
    if errors and not applied:
        return JSONResponse({"errors": errors}, status_code=422)
    now = {name: kind(getattr(service.config, own) / units) for name, (own, kind, units) in SETTABLE.items()}
    return JSONResponse({"applied": applied, "config": now} | ({"errors": errors} if errors else {}))


def _is_local(request: Request) -> bool:
    with contextlib.suppress(ValueError):
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    return False


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens: who connects before the policy is loaded waits. UserError if this process may not."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"cannot listen on {host}: {error.strerror or error}; choose another with --host") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(MOST_CONNECTIONS)
    except OSError as error:
        listening.close()
        reason = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise UserError(f"cannot listen on {host} port {port}: {reason}; choose another with --port") from error
    return listening


def make_server(service: BatchingService, config: SessionConfig) -> uvicorn.Server:
    """A server that serves on the sockets it is given (`serve(sockets=[...])`) until `should_exit` is set.

    It sends no pings: a client that simulates for a while does not answer them.
    """
    return uvicorn.Server(
        uvicorn.Config(
            build_policy_app(service, config),
            ws_max_size=MAX_FRAME_BYTES,
            ws_ping_interval=None,
            ws_per_message_deflate=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=LEAVE_S,
            lifespan="off",
            log_level="warning",
            access_log=False,
        )
    )
