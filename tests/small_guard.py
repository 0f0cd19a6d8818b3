"""What tests of the guard share: a small application, and requests that are handed to an ASGI application by hand."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from blm.serve.guard.config import GuardConfig
from blm.serve.guard.guard import guard
from blm.serve.guard.keys import digest

NEVER = {"type": "never"}
"""In place of a message: it does not come."""


KEY, OTHER = "a-key-of-somebody-1", "a-key-of-somebody-2"
KEYS: dict[str, Any] = {"key_hashes": {"robot": digest(KEY), "desk": digest(OTHER)}}
BEARER = {"authorization": f"Bearer {KEY}"}


def guarded(**options: Any) -> Any:
    """The small application behind a guard."""
    return guard(small_app(), GuardConfig(**options))


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine that may not take long."""
    return asyncio.run(asyncio.wait_for(work(), 20))


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error object."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == self.status
        return error


def small_app() -> Any:
    """Echoes bodies and messages, says who asks, waits, streams and breaks."""
    routes = Starlette(routes=small_routes())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/breaks":
            raise ValueError("a secret of the inside")
        await routes(scope, receive, send)

    return app


def small_routes() -> list[Any]:
    """The places."""

    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")

    async def who(request: Request) -> Response:
        state = request.scope["state"]
        return JSONResponse({"id": state["request_id"], "key": state["key"]})

    async def wait(request: Request) -> Response:
        await asyncio.sleep(float(request.query_params["s"]))
        return JSONResponse("late")

    async def stream(request: Request) -> Response:
        async def parts() -> Any:
            for _ in range(3):
                await asyncio.sleep(0.02)
                yield b"part"

        return StreamingResponse(parts())

    async def apologises(request: Request) -> Response:
        raise ValueError("a secret of the inside")  # Starlette answers 500 by itself, and raises all the same

    async def socket(websocket: WebSocket) -> None:
        if websocket.query_params.get("breaks") == "early":
            raise ValueError("a secret of the inside")
        await websocket.accept()
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if message.get("text") == "break":
                    raise ValueError("a secret of the inside")
                await websocket.send_bytes(message.get("bytes") or b"")
        except WebSocketDisconnect:
            return

    places = [("/echo", echo), ("/v1/chat/completions", echo), ("/v1/actions", echo), ("/apologises", apologises)]
    places += [("/who", who), ("/health", who), ("/wait", wait), ("/stream", stream)]
    methods = ["GET", "POST"]
    return [*(Route(p, e, methods=methods) for p, e in places), WebSocketRoute("/socket", socket)]


def http_scope(method: str, path: str, headers: Mapping[str, str], query: str = "") -> dict[str, Any]:
    """An HTTP request's header as an ASGI server passes it on."""
    given = {"host": "127.0.0.1:8000", **headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }


async def ask(
    app: Any,
    path: str,
    body: bytes | Sequence[Any] | None = None,
    *,
    method: str = "",
    headers: Mapping[str, str] | None = None,
    unread: bool = False,
) -> Reply:
    """One request. body: bytes, or messages one by one (`NEVER` waits for ever). unread: the answer is not taken."""
    place, _, query = path.partition("?")
    given = dict(headers or {})
    if isinstance(body, bytes):
        given.setdefault("content-length", str(len(body)))
        given.setdefault("content-type", "application/json")
        messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]
    elif body is None:
        messages = [{"type": "http.request", "body": b"", "more_body": False}]
    else:
        given.setdefault("transfer-encoding", "chunked")
        messages = list(body)
    sent: list[Any] = []

    async def receive() -> Any:
        message = messages.pop(0) if messages else NEVER
        if message is NEVER:
            await asyncio.Event().wait()
        return message

    async def send(message: Any) -> None:
        if unread and message["type"] == "http.response.body":
            await asyncio.Event().wait()
        sent.append(message)

    await app(http_scope(method or ("GET" if body is None else "POST"), place, given, query), receive, send)
    if not sent:
        return Reply(status=0, headers={}, body=b"")
    return Reply(
        status=sent[0]["status"],
        headers={name.decode(): value.decode() for name, value in sent[0]["headers"]},
        body=b"".join(message.get("body", b"") for message in sent[1:]),
    )


class Socket:
    """The client's end of a WebSocket to an ASGI application."""

    def __init__(
        self,
        app: Any,
        path: str = "/socket",
        *,
        headers: Mapping[str, str] | None = None,
        protocols: Sequence[str] = (),
    ) -> None:
        place, _, query = path.partition("?")
        scope = http_scope("GET", place, headers or {}, query) | {"type": "websocket", "scheme": "ws"}
        scope |= {"subprotocols": list(protocols), "extensions": {"websocket.http.response": {}}}
        self._to: asyncio.Queue[Any] = asyncio.Queue()
        self._from: asyncio.Queue[Any] = asyncio.Queue()
        self.taken = asyncio.Event()
        """Cleared: what is sent here is not taken."""
        self.taken.set()
        self.task = asyncio.create_task(app(scope, self._to.get, self._take))
        self.put({"type": "websocket.connect"})

    async def _take(self, message: Any) -> None:
        await self.taken.wait()
        self._from.put_nowait(message)

    def put(self, message: Any) -> None:
        """Send an ASGI message to the application."""
        self._to.put_nowait(message)

    def say(self, data: bytes) -> None:
        """Send a binary message."""
        self.put({"type": "websocket.receive", "bytes": data})

    async def hear(self) -> Any:
        """The next ASGI message from the application."""
        return await asyncio.wait_for(self._from.get(), 5)

    async def leave(self) -> None:
        """Hang up, and wait for the application to notice."""
        self.put({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(self.task, 5)
