"""Messages of our own protocol as its client writes and reads them; sessions/blm.py is the other side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blm.model.description import PolicyDescription, description_from_wire
from blm.model.errors import UserError
from blm.model.types import ActionChunk, Observation, Prefixes
from blm.model.wire import pack, unpack_map
from blm.serve.client_lines import ServerError

VERSION = 1
Timings = dict[str, float]
"""queue_ms, preprocess_ms, mllm_ms, denoise_ms, total_ms and batch of one answer."""


def hello(contract: Mapping[str, Any] | None = None) -> bytes:
    """What a client says first."""
    stated = {} if contract is None else {"contract": dict(contract)}
    return pack({"protocol": "blm", "version": VERSION, **stated})


def read_hello(frame: bytes | str, url: str) -> Any:
    """The description in a server's greeting, plain data. ServerError for any other, a refusal among them."""
    said = as_map(frame)
    if said.get("protocol") != "blm" or said.get("version") != VERSION:
        raise ServerError(f"{url} does not speak blm, version {VERSION}")
    if said.get("error") is not None:
        raise ServerError(f"{url} refuses: {said['error']}")
    return said.get("description")


def read_description(data: Any) -> PolicyDescription:
    """The description. ServerError for what is none."""
    try:
        return description_from_wire(data)
    except UserError as error:
        raise ServerError(str(error)) from error


def question(
    number: int, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
) -> bytes:
    """The message that asks for chunks."""
    left = None
    if prefixes is not None:
        left = [prefix and {"actions": prefix.actions, "frozen": prefix.frozen} for prefix in prefixes]
    asked = [plain(observation) for observation in observations]
    return pack({"id": number, "observations": asked, "seeds": [int(seed) for seed in seeds], "prefixes": left})


def read_answer(frame: bytes | str, number: int, count: int, url: str) -> list[tuple[ActionChunk, Timings]]:
    """The chunks of the answer to a question, with their timing. ServerError for any other, a complaint among them."""
    reply = as_map(frame)
    if reply.get("error") is not None:
        raise ServerError(str(reply["error"]))
    chunks = reply.get("chunks")
    if reply.get("id") != number or not isinstance(chunks, list) or len(chunks) != count:
        raise ServerError(f"{url} answered something else than what it was asked")
    return [(as_chunk(chunk), dict(chunk.get("timing") or {})) for chunk in chunks]


def plain(observation: Observation) -> dict[str, Any]:
    """An observation as a map."""
    return {
        "images": observation.images,
        "state": np.asarray(observation.state, dtype=np.float32),
        "instruction": observation.instruction,
        "embodiment": observation.embodiment,
    }


def as_map(frame: bytes | str) -> dict[Any, Any]:
    """A server's message. ServerError for what is none; a text frame is taken for its complaint."""
    if isinstance(frame, str):
        lines = [line.strip() for line in frame.splitlines() if line.strip()]
        raise ServerError(f"the server says: {lines[-1][:300] if lines else 'nothing'}")
    try:
        return unpack_map(frame)
    except UserError as error:
        raise ServerError(str(error)) from error


def as_chunk(chunk: Any) -> ActionChunk:
    """A chunk of an answer. ServerError for what is none."""
    actions = chunk.get("actions") if isinstance(chunk, dict) else None
    if not isinstance(actions, np.ndarray) or not isinstance(chunk.get("control_hz"), int):
        raise ServerError("a chunk without actions or control_hz")
    return ActionChunk(actions=actions, control_hz=chunk["control_hz"])
