"""The playground's two doors: the page, and the WebSocket between it and the simulator.

    GET /playground          one HTML document with everything in it; it loads nothing else
    WebSocket /playground/live
        page    {"do": "enter", "key": "..."}, then the commands of a stage, as JSON
        server  events as JSON; one with pictures is a binary frame: the length of its JSON (4 bytes, big-endian), the
                JSON, in which `pictures` is [[camera, bytes], ...], and these files one behind the other

The simulator is somewhere else (a `Stage`): this module knows nothing of it, and the stage knows nothing of browsers.
The page talks with the model by itself, over `/v1/chat/completions`.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from blm.serve.observability.logs import log

STATIC = Path(__file__).parent.parent / "static"
SCRIPTS = ("playground_parts.js", "playground_chart.js", "playground_talk.js", "playground_view.js", "playground.js")
LONGEST_COMMAND = 4096
ENTER_S = 10.0
POLL_S = 5.0
REFUSED, LOST = 1008, 1011
"""WebSocket close codes."""
RESTARTED = "the simulator has been restarted"

Event = dict[str, Any]


class Stage(Protocol):
    """Where episodes are run, `blm.actors.playground.Playground` or a handle to one."""

    async def open(self, key: str = "") -> tuple[str, list[Event]]:
        """(the visitor's name or nothing, first events)."""

    async def tell(self, visitor: str, command: Event) -> None:
        """A command."""

    async def poll(self, visitor: str, wait_s: float = POLL_S) -> list[Event] | None:
        """News; None for a visitor who is not there any more."""

    async def leave(self, visitor: str) -> None:
        """End of the visit."""


class RemoteStage:
    """A stage behind a Ray Serve handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def open(self, key: str = "") -> tuple[str, list[Event]]:
        """As `Stage`."""
        name, events = await self._handle.open.remote(key)
        return name, events

    async def tell(self, visitor: str, command: Event) -> None:
        """As `Stage`."""
        await self._handle.tell.remote(visitor, command)

    async def poll(self, visitor: str, wait_s: float = POLL_S) -> list[Event] | None:
        """As `Stage`."""
        events: list[Event] | None = await self._handle.poll.remote(visitor, wait_s)
        return events

    async def leave(self, visitor: str) -> None:
        """As `Stage`."""
        await self._handle.leave.remote(visitor)


@cache
def document() -> tuple[str, str]:
    """(the page, its Content-Security-Policy): style and scripts inside, and nothing from elsewhere allowed."""
    style = (STATIC / "playground.css").read_text(encoding="utf-8")
    script = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS)
    text = (STATIC / "playground.html").read_text(encoding="utf-8")
    text = text.replace("/* style */", style).replace("/* script */", script)
    digest = base64.b64encode(hashlib.sha256(_between(text, "<script>", "</script>").encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _between(text: str, start: str, end: str) -> str:
    return text[text.index(start) + len(start) : text.index(end)]


def playground_extra(handle: Any, *, chat: bool) -> list[BaseRoute]:
    """The routes over a Ray Serve handle of a stage, as `Extra` wants them."""
    return playground_routes(RemoteStage(handle), chat=chat)


def playground_routes(stage: Stage, *, chat: bool) -> list[BaseRoute]:
    """The routes. chat: whether the server talks, which the page is told."""

    async def page(request: Request) -> Response:
        text, policy = document()
        headers = {
            "Content-Security-Policy": policy,
            "Cache-Control": "no-cache",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        return HTMLResponse(text, headers=headers)

    async def live(websocket: WebSocket) -> None:
        if not is_own_origin(websocket):
            await websocket.close(REFUSED, "open the playground from the server's own page")
            return
        offered = websocket.scope.get("subprotocols") or []
        await websocket.accept(subprotocol="blm" if "blm" in offered else None)
        await _visit(websocket, stage, chat=chat)

    return [Route("/playground", page, methods=["GET"]), WebSocketRoute("/playground/live", live)]


def is_own_origin(websocket: WebSocket) -> bool:
    """Whether a WebSocket was opened by a page of this server, or by something that is no browser."""
    origin = websocket.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == websocket.headers.get("host")


async def _visit(websocket: WebSocket, stage: Stage, *, chat: bool) -> None:
    """One person's visit, to its end."""
    visitor = ""
    try:
        hello = await asyncio.wait_for(_command(websocket), ENTER_S)
        key = hello.get("key", "")
        visitor, events = await stage.open(key if isinstance(key, str) else "")
        for event in events:
            await websocket.send_text(json.dumps(event | ({"chat": chat} if event["event"] == "hello" else {})))
        if visitor:
            await _stay(websocket, stage, visitor)
        else:
            await websocket.close(REFUSED, "no place")
    except WebSocketDisconnect:
        pass
    except TimeoutError:
        await websocket.close(REFUSED, "nobody entered")
    except Exception as error:  # the simulator's process has died, or is not there yet
        log("playground failed", level=logging.WARNING, error=error)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await websocket.close(LOST, RESTARTED)
    finally:
        if visitor:
            with contextlib.suppress(Exception):  # where it died there is nobody to be told
                await stage.leave(visitor)


async def _stay(websocket: WebSocket, stage: Stage, visitor: str) -> None:
    """Pass on what both sides say, until one of them ends it."""
    both = (_listen(websocket, stage, visitor), _report(websocket, stage, visitor))
    tasks = [asyncio.create_task(one) for one in both]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _command(websocket: WebSocket) -> Event:
    """The next command; WebSocketDisconnect for a visitor who left or does not speak this."""
    with contextlib.suppress(ValueError, RecursionError, KeyError):  # the last: a binary frame
        text = await websocket.receive_text()
        command = json.loads(text) if len(text) <= LONGEST_COMMAND else None
        if isinstance(command, dict):
            return command
    await websocket.close(REFUSED, "not a command")
    raise WebSocketDisconnect(REFUSED)


async def _listen(websocket: WebSocket, stage: Stage, visitor: str) -> None:
    while True:
        await stage.tell(visitor, await _command(websocket))


async def _report(websocket: WebSocket, stage: Stage, visitor: str) -> None:
    while True:
        events = await stage.poll(visitor, POLL_S)
        if events is None:
            await websocket.close(LOST, RESTARTED)
            return
        for event in events:
            await (
                websocket.send_bytes(packed(event)) if "pictures" in event else websocket.send_text(json.dumps(event))
            )


def packed(event: Event) -> bytes:
    """An event with pictures [(camera, file)] as one binary frame."""
    pictures: Sequence[tuple[str, bytes]] = event["pictures"]
    text = json.dumps(event | {"pictures": [[name, len(data)] for name, data in pictures]}).encode()
    return b"".join([len(text).to_bytes(4, "big"), text, *(data for _, data in pictures)])
