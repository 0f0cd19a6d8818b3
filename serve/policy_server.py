"""A plain server of one policy, without Ray: every client on one port, for evaluations and for robots.

The doors are those of sessions/routes.py; besides, /health and /healthz answer 200, as vla-eval and openpi ask, once
the policy is loaded. It listens on this machine alone unless told otherwise, and then it wants keys (serve/guard).
"""

import errno
import socket
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from blm.model.errors import UserError
from blm.model.wire import MAX_FRAME_BYTES
from blm.serve.batches.service import BatchConfig, BatchingService
from blm.serve.guard.config import GuardConfig
from blm.serve.guard.connection import connection_class
from blm.serve.guard.guard import guard
from blm.serve.sessions.contract import contract_of
from blm.serve.sessions.routes import configure, is_local, websocket_routes
from blm.serve.sessions.session import SessionConfig
from blm.serve.sessions.sessions import Sessions

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
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Keys and limits."""


def build_policy_app(service: BatchingService, config: SessionConfig) -> Starlette:
    """The ASGI application of a policy."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("OK\n")

    async def contract(request: Request) -> Response:
        return JSONResponse(contract_of(service.description))

    async def configuration(request: Request) -> Response:
        return configure(service, dict(request.query_params), from_here=is_local(request))

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/healthz", healthz),
            Route("/v1/contract", contract),
            Route("/config", configuration),
            *websocket_routes(service, config, Sessions()),
        ]
    )


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


def make_server(
    service: BatchingService, config: SessionConfig, guard_config: GuardConfig | None = None
) -> uvicorn.Server:
    """A server that serves on the sockets it is given (`serve(sockets=[...])`) until `should_exit` is set.

    It sends no pings: a client that simulates for a while does not answer them.
    """
    config_of_guard = guard_config or GuardConfig()
    return uvicorn.Server(
        uvicorn.Config(
            guard(build_policy_app(service, config), config_of_guard, refused=service.metrics.refused),
            http=connection_class(config_of_guard),
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
