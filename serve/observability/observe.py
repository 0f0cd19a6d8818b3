"""The outermost layer of the server: counts every request and writes one line of the log for each.

It sits outside the guard, so that refusals are seen too, and reads the request's id and the name of its key where the
guard writes them: in the scope's state.
"""

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blm.serve.observability.logs import log
from blm.serve.observability.metrics import OTHER, Metrics

PATHS = frozenset(
    {
        "/", "/blm", "/config", "/docs", "/health", "/healthz", "/livez", "/metrics", "/openapi.json", "/openpi",
        "/playground", "/playground/live", "/starvla", "/v1/actions", "/v1/chat/completions", "/v1/completions",
        "/v1/contract", "/v1/models", "/v1/responses", "/tokenize", "/detokenize", "/vla-eval",
    }
)  # fmt: skip
"""Paths that become labels; any other is `other`, so that nobody can fill the memory with invented ones."""
QUIET = frozenset({"/health", "/healthz", "/livez", "/metrics"})
"""Asked every few seconds by machines: counted, and logged only when they fail."""
LOST = 499
"""Status of a request whose client left before an answer began, or 500's case without one."""


def path_label(path: str) -> str:
    """A path as a label."""
    return path if path in PATHS else OTHER


def observe(app: ASGIApp, metrics: Metrics, *, requests: bool = True) -> ASGIApp:
    """The application, watched. requests: whether answered requests get a line; failed ones (5xx) always do."""

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _http(scope, receive, send)
        elif scope["type"] == "websocket":
            await _websocket(scope, receive, send)
        else:
            await app(scope, receive, send)

    async def _http(scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        status, sent = LOST, 0

        async def sending(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = int(message["status"])
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            with metrics.running():
                await app(scope, receive, sending)
        except Exception:
            status = 500 if status == LOST else status
            raise
        finally:
            seconds = time.perf_counter() - began
            label = path_label(scope["path"])
            metrics.requested(label, status, seconds)
            if status >= 500 or (requests and label not in QUIET):
                log(
                    "request",
                    level=40 if status >= 500 else 20,
                    **_known(scope),
                    method=scope["method"],
                    path=scope["path"][:200],
                    status=status,
                    ms=round(1e3 * seconds, 1),
                    bytes=sent,
                    client=_client(scope),
                )

    async def _websocket(scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        code, frames_in, frames_out = 1006, 0, 0
        accepted = False

        async def receiving() -> Message:
            nonlocal code, frames_in
            message = await receive()
            if message["type"] == "websocket.disconnect":
                code = int(message.get("code") or 1005)
            frames_in += message["type"] == "websocket.receive"
            return message

        async def sending(message: Message) -> None:
            nonlocal code, frames_out, accepted
            if message["type"] == "websocket.accept":
                accepted = True
            elif message["type"] == "websocket.close":
                code = int(message.get("code") or 1000)
            elif message["type"] == "websocket.http.response.start":
                code = int(message["status"])
            frames_out += message["type"] == "websocket.send"
            await send(message)

        try:
            await app(scope, receiving, sending)
        except Exception:
            code = 1011
            raise
        finally:
            if requests or code == 1011:
                log(
                    "session" if accepted else "session refused",
                    level=40 if code == 1011 else 20,
                    **_known(scope),
                    path=scope["path"][:200],
                    code=code,
                    seconds=round(time.perf_counter() - began, 1),
                    frames_in=frames_in,
                    frames_out=frames_out,
                    client=_client(scope),
                )

    return watched


def _known(scope: Scope) -> dict[str, Any]:
    """Request id and the key's name, as far as the guard has come with the request."""
    state = scope.get("state") or {}
    return {name: str(state[name]) for name in ("request_id", "key") if state.get(name)}


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""
