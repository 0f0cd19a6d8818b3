"""The web application of a replica over an engine without vLLM, in a thread of the test's process, on a free port."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from small_policy_server import description_of_random
from starlette.responses import StreamingResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from blm.actors.sim.policies import RandomPolicy
from blm.model.description import PolicyDescription
from blm.model.types import ActionChunk, ComputeTiming, Observation, Prefixes
from blm.serve.batches.answers import InThread
from blm.serve.batches.service import BatchingService
from blm.serve.config import ServeConfig
from blm.serve.policy_server import open_socket
from blm.serve.sessions.sessions import Sessions
from blm.serve.web.web import build_web

STATE = [0.0, 0.4, 0.0, -2.0, 0.0, 2.4, 0.8, 1.0]
PLAIN: dict[str, Any] = {"embodiment": "panda", "instruction": "push the cube", "state": STATE, "images": {}}
"""A good request of a policy that does not look."""


class Question(BaseModel):
    """What the small conversation takes."""

    prompt: str
    stream: bool = False


def small_chat() -> FastAPI:
    """An application with a conversation that repeats, and with places that nobody may reach from outside."""
    app = FastAPI()

    async def complete(question: Question) -> Any:
        if question.stream:
            return StreamingResponse(iter([f"data: {word}\n\n" for word in question.prompt.split()]))
        return {"choices": [{"text": question.prompt}]}

    async def models() -> dict[str, Any]:
        return {"data": [{"id": "BLM"}]}

    async def done() -> dict[str, str]:
        return {"status": "done"}

    app.post("/v1/completions")(complete)
    app.get("/v1/models")(models)
    app.post("/v1/load_lora_adapter")(done)
    app.post("/sleep")(done)
    return app


class SmallEngine:
    """An `Engine` over a policy in this process."""

    def __init__(
        self, policy: Any = None, description: PolicyDescription | None = None, *, chat: ASGIApp | None = None
    ) -> None:
        self.description = description
        self.chat = chat
        self.facts = {"role": "small"}
        self.dead = False
        self._compute = InThread(policy)

    async def compute(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        return await self._compute(observations, seeds, prefixes)

    async def check(self) -> None:
        if self.dead:
            raise RuntimeError("the engine died of /secret/path")

    async def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Web:
    """A running application."""

    port: int
    engine: SmallEngine
    service: BatchingService | None
    sessions: Sessions = field(default_factory=Sessions)
    loop: list[asyncio.AbstractEventLoop] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, job: Callable[[], Any], *, wait: bool = True) -> Any:
        """Run a coroutine function on the server's own loop."""
        running = asyncio.run_coroutine_threadsafe(job(), self.loop[0])
        return running.result(20) if wait else running


@contextmanager
def serving_web(
    policy: Any = None,
    description: PolicyDescription | None = None,
    *,
    chat: ASGIApp | None = None,
    acts: bool = True,
    config: ServeConfig | None = None,
    extras: Sequence[BaseRoute] = (),
    port: int = 0,
) -> Iterator[Web]:
    """The application, served until the block ends."""
    config = config or ServeConfig()
    known = (description or description_of_random()) if acts else None
    engine = SmallEngine(policy or RandomPolicy(), known, chat=chat)
    service = BatchingService(engine.compute, known, config.batches) if known is not None else None
    with open_socket("127.0.0.1", port) as listening:
        web = Web(listening.getsockname()[1], engine, service)
        app = build_web(engine, service, config, extras, sessions=web.sessions)
        server = uvicorn.Server(
            uvicorn.Config(
                app, ws_ping_interval=None, lifespan="off", log_level="critical", timeout_graceful_shutdown=2
            )
        )

        async def serve() -> None:
            web.loop.append(asyncio.get_running_loop())
            await server.serve(sockets=[listening])

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        try:
            yield web
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server does not leave"


def ask(web: Web, body: Any, **headers: str) -> httpx.Response:
    """`POST /v1/actions`: a map as JSON, bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{web.url}/v1/actions", content=content, headers={"Content-Type": "application/json", **headers})


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until something holds."""
    until_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until_s, "it never did"
        time.sleep(0.005)
