"""Bodies of requests: read whole, in time, no larger than allowed; and what JSON looks like before anybody parses it.

Nothing is ever unpacked here: a compressed body is refused, so that a small one cannot become a large one. Looking at
the shape of JSON costs a few passes over its bytes; its depth and its number of parts bound what parsing takes.
"""

import asyncio
import re
from collections.abc import Callable

import numpy as np
from starlette.types import Message, Receive, Scope

from blm.serve.guard.config import GuardConfig
from blm.serve.guard.entry import header
from blm.serve.guard.errors import RefusedError

JSON, MSGPACK = "json", "msgpack"
ACTIONS = "/v1/actions"
"""The one place that reads msgpack, and whose JSON is no conversation: it judges its pictures itself."""
MAX_PARTS = 2**20
"""Most lists, objects, texts and numbers of one JSON body."""
_KINDS = {
    b"application/json": JSON,
    b"application/x-www-form-urlencoded": JSON,  # what curl says of -d unless told otherwise
    b"application/msgpack": MSGPACK,
    b"application/x-msgpack": MSGPACK,
    b"application/vnd.msgpack": MSGPACK,
}
_MARKS = (b"[", b"{", b",", b'"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_TEXTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def expects_body(scope: Scope) -> bool:
    """Whether a request says that a body follows."""
    return header(scope, b"transfer-encoding") is not None or (header(scope, b"content-length") or b"0") != b"0"


def check_header(scope: Scope, config: GuardConfig) -> str:
    """The body's kind, "json" or "msgpack". RefusedError for other kinds, compressed and too large ones: 413, 415."""
    encoding = (header(scope, b"content-encoding") or b"identity").lower().strip()
    if encoding != b"identity":
        raise RefusedError(
            415,
            "a compressed body; send it as it is, without Content-Encoding",
            reason="content encoding",
            headers={"Accept-Encoding": "identity"},
        )
    kind = _KINDS.get((header(scope, b"content-type") or b"application/json").split(b";")[0].strip().lower())
    if kind is None or (kind == MSGPACK and scope["path"] != ACTIONS):
        raise RefusedError(
            415, f"send JSON (Content-Type: application/json); {ACTIONS} reads msgpack too", reason="content type"
        )
    length = header(scope, b"content-length") or b"0"
    if not length.isdigit():
        raise RefusedError(400, "Content-Length is no number", reason="content length")
    if len(length) > 19 or int(length) > config.max_body_bytes:
        raise _too_large(config)
    return kind


async def read_body(receive: Receive, config: GuardConfig, grow: Callable[[int], None]) -> bytes | None:
    """The whole body; None if the client left before its end. RefusedError: 408 too slow, 413 too large.

    grow: called with the size of each piece, before it is kept.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(config.body_s):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                part = message.get("body", b"")
                size += len(part)
                if size > config.max_body_bytes:
                    raise _too_large(config)
                grow(len(part))
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise RefusedError(
            408,
            f"the body did not arrive within {config.body_s:g} s",
            reason="slow body",
            headers={"Connection": "close"},
        ) from None


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body at once, and then whatever comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def check_json(body: bytes, config: GuardConfig) -> None:
    """RefusedError (400, 413) for JSON that is not UTF-8, nested too deep, or of too many parts."""
    if b"\x00" in body or body.startswith((b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe")):
        raise RefusedError(400, "the body is no JSON in UTF-8", reason="json")
    if len(body) > MAX_PARTS and sum(body.count(mark) for mark in _MARKS) > MAX_PARTS:
        raise RefusedError(413, f"JSON of more than {MAX_PARTS} parts; send arrays as msgpack", reason="json parts")
    deepest = config.max_json_depth
    if body.count(b"[") + body.count(b"{") > deepest and json_depth(body) > deepest:
        raise RefusedError(400, f"JSON nested deeper than {deepest} levels", reason="json depth")


def json_depth(body: bytes) -> int:
    """How deep lists and objects are nested, of whatever claims to be JSON; brackets in texts do not count."""
    brackets = _TEXTS.sub(b"", body).translate(None, _NO_BRACKETS)
    marks = np.frombuffer(brackets[: 2 * MAX_PARTS], np.uint8)  # those of more parts have been refused
    opened, closed = np.isin(marks, (ord("["), ord("{"))), np.isin(marks, (ord("]"), ord("}")))
    return int(np.cumsum(opened.astype(np.int32) - closed).max(initial=0))


def _too_large(config: GuardConfig) -> RefusedError:
    size = config.max_body_bytes
    unit = f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size} bytes"
    return RefusedError(413, f"a body of more than {unit}; send smaller or fewer pictures", reason="size")
