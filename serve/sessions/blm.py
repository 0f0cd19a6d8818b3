"""Our own protocol: whole batches of observations in one message, with seeds and chunks in execution.

    client  {"protocol": "blm", "version": 1, "contract": {...} or nil, "latest": true or nil}
    server  {"protocol": "blm", "version": 1, "description": {...}}   or   {"protocol": "blm", "error": "..."}
    client  {"id": 1, "observations": [{"images", "state", "instruction", "embodiment"}, ...], "seeds": [...],
             "prefixes": [{"actions", "frozen"} or nil, ...] or nil}
    server  {"id": 1, "chunks": [{"actions", "control_hz", "timing"}, ...]}   or   {"id": 1, "error": "..."}

Arrays are written in openpi's form; a picture may be the bytes of a PNG or JPEG instead. With `latest` the client sends
without waiting, and of what came during a pass only the newest is looked at: the answer says how many were `skipped`.
What a batch that came together is answered does not depend on what else the server is asked meanwhile, as far as the
policy's arithmetic allows.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blm.model.description import description_to_wire
from blm.model.errors import UserError
from blm.model.types import Observation, Prefixes
from blm.model.wire import pack
from blm.serve.batches.answers import Answer
from blm.serve.client_messages import VERSION
from blm.serve.sessions.contract import check_contract
from blm.serve.sessions.observations import check_rows, read_prefix, read_seed
from blm.serve.sessions.session import (
    REFUSED,
    UNREADABLE,
    HungUpError,
    PolicyService,
    SessionConfig,
    Transport,
    complaint,
    read,
)

MOST_OBSERVATIONS = 256
"""In one message."""


@dataclass(frozen=True, slots=True)
class _Question:
    observations: Sequence[Observation]
    seeds: Sequence[int]
    prefixes: Prefixes | None


class BlmSession:
    """One client's conversation; stateless, so that a client which connects again loses nothing."""

    resting = True

    def __init__(self, service: PolicyService, config: SessionConfig) -> None:
        self._service = service
        self._reader = config.reader(service.description)

    async def run(self, transport: Transport) -> None:
        """As `Session`. Errors are told in place of the answer, and the conversation goes on."""
        hello = await read(await transport.receive(), lambda message: message)
        if hello.get("protocol") != "blm" or hello.get("version") != VERSION:
            await transport.close(UNREADABLE, f"this server speaks blm, version {VERSION}")
            return
        greeting: dict[str, Any] = {"protocol": "blm", "version": VERSION}
        try:
            check_contract(hello.get("contract"), self._reader)
        except UserError as error:
            await transport.send(pack(greeting | {"error": complaint(error, self._service.metrics)}))
            await transport.close(REFUSED, "another contract")
            return
        await transport.send(pack(greeting | {"description": description_to_wire(self._service.description)}))
        if hello.get("latest") is True:
            await self._newest(transport)
        while True:
            frame = await transport.receive()
            await transport.send(pack(await self._reply(frame)))

    async def _newest(self, transport: Transport) -> None:
        """Answer the newest message until the other side hangs up."""
        newest: bytes | str | None = None
        skipped = 0
        came = asyncio.Event()

        async def listen() -> None:
            nonlocal newest, skipped
            try:
                while True:
                    frame = await transport.receive()
                    skipped += newest is not None
                    newest = frame
                    came.set()
            finally:
                came.set()

        listening = asyncio.create_task(listen())
        try:
            while not listening.done() or newest is not None:
                await came.wait()
                came.clear()
                if newest is not None:
                    frame, missed, newest, skipped = newest, skipped, None, 0
                    await transport.send(pack(await self._reply(frame) | {"skipped": missed}))
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, HungUpError):
                await listening
        raise HungUpError

    async def _reply(self, frame: bytes | str) -> dict[str, Any]:
        began_s = time.perf_counter()
        number: Any = None

        def understand(message: dict[Any, Any]) -> _Question:
            nonlocal number
            number = message.get("id")
            return self._question(message)

        try:
            question = await read(frame, understand)
            answers = await self._service.infer(
                question.observations, question.seeds, question.prefixes, protocol="blm", began_s=began_s
            )
            return {"id": number, "chunks": [_plain(answer) for answer in answers]}
        except Exception as error:
            return {"id": number, "error": complaint(error, self._service.metrics)}

    def _question(self, message: dict[Any, Any]) -> _Question:
        observations = message.get("observations")
        if not isinstance(observations, list) or not 1 <= len(observations) <= MOST_OBSERVATIONS:
            raise UserError(f"'observations' must be a list of 1 to {MOST_OBSERVATIONS}")
        seeds = check_rows("seeds", message.get("seeds"), len(observations))
        prefixes = message.get("prefixes")
        if prefixes is not None:
            prefixes = [read_prefix(one) for one in check_rows("prefixes", prefixes, len(observations))]
        return _Question(
            [self._observation(one) for one in observations], [read_seed(seed, 0) for seed in seeds], prefixes
        )

    def _observation(self, one: Any) -> Observation:
        if not isinstance(one, dict) or not isinstance(one.get("images"), dict):
            raise UserError("an observation is a map with images, state, instruction and embodiment")
        return self._reader.observation(one["images"], one.get("state"), one.get("instruction"), one.get("embodiment"))


def _plain(answer: Answer) -> dict[str, Any]:
    chunk = answer.chunk
    return {
        "actions": np.ascontiguousarray(chunk.actions, dtype=np.float32),
        "control_hz": chunk.control_hz,
        "timing": answer.timing.to_wire(),
    }
