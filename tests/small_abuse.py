"""A guarded server in a thread of the test's process, and ways to mistreat it that no client library offers."""

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import urlopen

import uvicorn
from fastapi import FastAPI, Request
from small_policy_server import description_of_random
from small_web import PLAIN, SmallEngine

from blm.actors.sim.policies import RandomPolicy
from blm.model.wire import unpack
from blm.serve.batches.service import BatchingService
from blm.serve.config import ServeConfig
from blm.serve.guard.config import GuardConfig
from blm.serve.guard.connection import connection_class
from blm.serve.guard.guard import guard
from blm.serve.guard.keys import digest
from blm.serve.policy_server import open_socket
from blm.serve.web.web import build_web

KEY = "the-key-of-a-robot"
GOOD = {"Authorization": f"Bearer {KEY}"}
LIMITS = GuardConfig(
    key_hashes={"robot": digest(KEY)},
    max_body_bytes=2**20,
    max_message_bytes=2**20,
    max_header_bytes=4096,
    header_s=0.4,
    body_s=0.4,
    idle_s=0.5,
    send_s=0.5,
)


def credulous_chat() -> FastAPI:
    """A conversation that fetches every address it is given, as a careless server would."""
    app = FastAPI()

    async def complete(request: Request) -> Any:
        for message in (await request.json())["messages"]:
            for part in message["content"]:
                if "image_url" in part:
                    urlopen(part["image_url"]["url"], timeout=5).read()
        return {"choices": []}

    app.post("/v1/chat/completions")(complete)
    return app


@dataclass(frozen=True, slots=True)
class Victim:
    """A running server."""

    port: int
    refusals: list[tuple[int, str]]
    server: uvicorn.Server | None
    """None: in another process."""

    def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and content of an answer; the path goes as it is."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body or None, dict(GOOD if headers is None else headers))
            reply = connection.getresponse()
            text = reply.read()
            assert b"Traceback" not in text
            packed = reply.headers.get_content_type() == "application/msgpack"
            return reply.status, (unpack(text) if packed else json.loads(text)) if text else None
        finally:
            connection.close()

    def act(self, changes: Mapping[str, Any] | None = None, **headers: str) -> tuple[int, Any]:
        """A request for actions."""
        body = json.dumps({**PLAIN, **(changes or {})}).encode()
        return self.send("POST", "/v1/actions", body, {**GOOD, "Content-Type": "application/json", **headers})

    def talk(self, *parts: Any) -> tuple[int, Any]:
        """A request for conversation."""
        body = json.dumps({"messages": [{"role": "user", "content": list(parts)}]}).encode()
        return self.send("POST", "/v1/chat/completions", body, {**GOOD, "Content-Type": "application/json"})

    def raw(self, data: bytes) -> socket.socket:
        """A connection on which some bytes have been sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.sendall(data)
        return connection

    def upgrade(self, path: str) -> socket.socket:
        """A WebSocket without a library that looks after it."""
        hello = f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        connection = self.raw(f"{hello}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 101")
        return connection

    def empties(self, within_s: float = 8.0) -> bool:
        """Whether every connection ends within a time."""
        assert self.server is not None
        deadline = time.monotonic() + within_s
        while self.server.server_state.connections and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.server.server_state.connections


def frame(length: int) -> bytes:
    """The header of a large WebSocket message from a client."""
    return struct.pack("!BBQ", 0x82, 0x80 | 127, length) + bytes(4)


def rest(connection: socket.socket) -> bytes:
    """Everything that comes until the other side hangs up."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    connection.close()
    return b"".join(parts)


def dribble(connection: socket.socket, piece: bytes, *, every_s: float = 0.05, most_s: float = 5.0) -> float:
    """Send a piece again and again until the other side hangs up; the seconds that took."""
    began = time.monotonic()
    connection.settimeout(every_s)
    while time.monotonic() - began < most_s:
        try:
            connection.sendall(piece)
            if not connection.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    connection.close()
    return time.monotonic() - began


@contextmanager
def victim(config: GuardConfig = LIMITS) -> Iterator[Victim]:
    """The whole web application behind the guard, served until the block ends."""
    engine = SmallEngine(RandomPolicy(), description_of_random(), chat=credulous_chat())
    assert engine.description is not None
    serve = ServeConfig(guard=config)
    refusals: list[tuple[int, str]] = []
    service = BatchingService(engine.compute, engine.description, serve.batches)
    app = guard(build_web(engine, service, serve), config, refused=lambda *what: refusals.append(what))
    with open_socket("127.0.0.1", 0) as listening:
        settings = uvicorn.Config(
            app, http=connection_class(config), lifespan="off", log_level="critical", timeout_graceful_shutdown=2
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        try:
            yield Victim(listening.getsockname()[1], refusals, server)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server does not leave"


@contextmanager
def inner_service() -> Iterator[tuple[int, list[str]]]:
    """(port, paths that were asked for) of a service that only this machine should reach; /away leads on to /secret."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302 if self.path == "/away" else 200)
            self.send_header("Location", "/secret")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
