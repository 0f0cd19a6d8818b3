"""A server with a playground in a thread of the test's process: a policy over `/blm`, the page, and a small talker."""

import asyncio
import base64
import contextlib
import io
import json
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from small_episodes import demonstrated
from small_policy_server import description_of_random
from small_rollouts import PUSH
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from blm.actors.playground import Playground, PlaygroundOptions
from blm.actors.sim.policies import CHUNK, chunk_seed
from blm.model.description import PolicyDescription
from blm.model.layout import layout_of
from blm.model.types import ActionChunk, ComputeTiming, Observation, Prefixes
from blm.serve.batches.service import BatchingService
from blm.serve.guard.config import GuardConfig
from blm.serve.guard.guard import guard
from blm.serve.playground.routes import playground_routes
from blm.serve.policy_server import open_socket
from blm.serve.sessions.routes import websocket_routes
from blm.serve.sessions.session import SessionConfig
from blm.serve.sessions.sessions import Sessions


def described() -> PolicyDescription:
    """Of a policy for the Panda with two cameras."""
    return description_of_random(
        cameras=("front", "side"), image_px=112, layouts=(layout_of("panda"),), identity="c0ffee"
    )


class Replayed:
    """Demonstrations of PushCube, found again by the noise seeds of their chunks; they succeed."""

    name = "replayed"
    sees = True

    def __init__(self, seeds: Sequence[int]) -> None:
        self._chunks: dict[int, np.ndarray] = {}
        for seed in seeds:
            actions = demonstrated(PUSH.name, seed).actions
            held = np.concatenate([actions, np.repeat(actions[-1:], CHUNK, axis=0)])
            for chunk, first in enumerate(range(0, len(actions), 8)):
                self._chunks[chunk_seed(PUSH.name, seed, chunk)] = held[first : first + CHUNK]

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """As `Policy`."""
        return [ActionChunk(actions=self._chunks[seed], control_hz=20) for seed in seeds]

    async def compute(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        """As `Compute`."""
        await asyncio.sleep(0.02)
        return self.infer_batch(observations, seeds), ComputeTiming(preprocess_ms=2.0, mllm_ms=12.0, denoise_ms=6.0)


class Talker:
    """Answers as `/v1/chat/completions` does, word by word: how many pictures of which size, and the question again."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def answer(self, request: Request) -> Response:
        """One conversation."""
        body = await request.json()
        self.asked.append(body)
        parts = body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        sizes = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in urls]
        question = body["messages"][-1]["content"][-1]["text"]
        words = f"I see {len(urls)} pictures of {sizes[0][0]} px; you asked: {question}".split(" ")
        return StreamingResponse(self._stream(words), media_type="text/event-stream")

    async def _stream(self, words: Sequence[str]) -> AsyncIterator[str]:
        for word in words:
            chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": f"{word} "}}]}
            yield f"data: {json.dumps(chunk)}\n\n"
            await asyncio.sleep(0)
        yield "data: [DONE]\n\n"


async def models(request: Request) -> Response:
    """As `/v1/models`."""
    return JSONResponse({"object": "list", "data": [{"id": "BLM"}]})


class PlaygroundServer:
    """A server that can be stopped and started again on its port."""

    def __init__(
        self,
        compute: Any,
        description: PolicyDescription,
        options: PlaygroundOptions,
        *,
        chat: bool,
        guarded: GuardConfig,
    ) -> None:
        self._compute, self._description, self._options = compute, description, options
        self._chat, self._guarded = chat, guarded
        self.talker = Talker()
        self._listening = open_socket("127.0.0.1", 0)
        self.port = int(self._listening.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread: threading.Thread | None = None
        self._server: uvicorn.Server | None = None

    def start(self) -> None:
        """Serve; returns at once, since the port listens already."""
        if self._listening.fileno() < 0:
            self._listening = open_socket("127.0.0.1", self.port)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()

    def stop(self) -> None:
        """Serve no more: connections are cut, and the port is closed."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(20)
            assert not self._thread.is_alive(), "the server does not leave"
        self._listening.close()

    def _connect(self, key: str) -> Any:
        from blm.pipelines.playground import connect

        return connect(f"ws://127.0.0.1:{self.port}", key)

    async def _serve(self) -> None:
        stage = Playground(self._connect, self._options)
        service = BatchingService(self._compute, self._description)
        routes = [
            *websocket_routes(service, SessionConfig(), Sessions()),
            *playground_routes(stage, chat=self._chat),
            Route("/v1/models", models),
        ]
        if self._chat:
            routes.append(Route("/v1/chat/completions", self.talker.answer, methods=["POST"]))
        app = guard(Starlette(routes=routes), self._guarded)
        config = uvicorn.Config(
            app, ws_ping_interval=None, lifespan="off", log_level="warning", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        try:
            await self._server.serve(sockets=[self._listening])
        finally:
            await stage.close()


@contextlib.contextmanager
def playing(
    compute: Any,
    description: PolicyDescription,
    options: PlaygroundOptions | None = None,
    *,
    chat: bool = True,
    guarded: GuardConfig | None = None,
) -> Iterator[PlaygroundServer]:
    """A server behind the real guard that runs until the block ends."""
    server = PlaygroundServer(
        compute, description, options or PlaygroundOptions(), chat=chat, guarded=guarded or GuardConfig()
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()
