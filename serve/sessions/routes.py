"""The doors of a served policy as routes for any web application.

    /                                      the dialect that the client speaks (sessions.py)
    /blm  /openpi  /starvla  /vla-eval     that one

and `configure`, behind `/config`: what vla-eval's load test reads, and may set from the server's own machine.
"""

import contextlib
import ipaddress
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from blm.model.errors import UserError
from blm.serve.batches.service import BatchingService
from blm.serve.sessions.session import RESTART, Dialect, HungUpError, SessionConfig
from blm.serve.sessions.sessions import LEAVING, Sessions
from blm.serve.web.schema import error_object

PLACES: dict[str, Dialect] = {"/blm": "blm", "/openpi": "openpi", "/starvla": "starvla", "/vla-eval": "vla-eval"}
SETTABLE: dict[str, tuple[str, Callable[[Any], Any], float]] = {
    "max_batch_size": ("max_batch", int, 1.0),
    "max_wait_time": ("wait_ms", float, 1e3),
}
"""Query parameter -> field of `BatchConfig`, kind, and how many of its units make one of the parameter's."""


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
        if self._websocket.application_state is WebSocketState.DISCONNECTED:
            return
        with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):
            await self._websocket.close(code, reason[:100])


def websocket_routes(service: BatchingService, config: SessionConfig, sessions: Sessions) -> list[BaseRoute]:
    """The doors."""

    async def talk(websocket: WebSocket) -> None:
        if sessions.draining:
            await turn_away(websocket)
            return
        await websocket.accept()
        dialect = PLACES.get(websocket.url.path, config.dialect)
        await sessions.converse(StarletteTransport(websocket), service, config, dialect)

    return [WebSocketRoute(place, talk) for place in ("/", *PLACES)]


async def turn_away(websocket: WebSocket) -> None:
    """Refuse a connection, since the server is about to stop: with status 503 where the server below can say that."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        body = error_object(LEAVING, 503)
        await websocket.send_denial_response(JSONResponse(body, status_code=503, headers={"Retry-After": "1"}))
        return
    await websocket.accept()
    await websocket.close(RESTART, LEAVING)


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


def is_local(request: Request) -> bool:
    """Whether a request comes from this machine."""
    with contextlib.suppress(ValueError):
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    return False
