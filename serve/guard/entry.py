"""Who asks, from where and for what: request ids, paths, pages of origin, keys. All of it from the header alone."""

import re
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.types import Message, Receive, Scope, Send

from blm.serve.guard.config import GuardConfig
from blm.serve.guard.errors import RefusedError
from blm.serve.guard.keys import KeyRing, is_loopback
from blm.serve.observability.logs import REQUEST_ID

PROTOCOL, PROTOCOL_KEY = "blm", "blm-key."
"""Subprotocols of a WebSocket from a browser, which cannot set headers: `["blm", "blm-key." + key]`."""
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CLIMBS = re.compile(r"(^|/)\.\.?(/|$)|[\\\x00-\x1f\x7f]")
_KEY_HEADERS = (b"x-api-key", b"api-key")
_SCHEMES = ("bearer ", "api-key ")
_ONCE = frozenset({b"host", b"origin", b"content-type", b"content-encoding", b"content-length"})
"""Headers that nobody after us may read differently because they stand twice."""
_ALLOWED_HEADERS = "authorization, content-type, x-api-key, x-request-id"


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who was let in."""

    key: str
    """The key's name; "" where none is asked for."""
    origin: str
    """The foreign page it comes from, which has been allowed; "" for all others."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """A header's value."""
    return next((bytes(value) for key, value in scope["headers"] if key == name), None)


def give_id(scope: Scope) -> None:
    """Put a request id that is safe to log into header, state and context: the client's own, or a new one."""
    given = header(scope, b"x-request-id")
    known = given if given is not None and _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex.encode()
    if known != given:
        others = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
        scope["headers"] = [*others, (b"x-request-id", known)]
    state: dict[str, Any] = scope.setdefault("state", {})
    state["request_id"] = known.decode()
    REQUEST_ID.set(known.decode())


def enter(scope: Scope, config: GuardConfig, ring: KeyRing) -> Caller:
    """Who it is. RefusedError for a path that climbs, a foreign page, no key or a wrong one."""
    _check_path(scope)
    names = [name for name, _ in scope["headers"] if name in _ONCE]
    if len(set(names)) != len(names):
        raise RefusedError(400, "a header stands twice that may stand once", reason="header")
    origin = _check_origin(scope, config, ring)
    if not ring.required or scope["path"] in config.open_paths or _is_preflight(scope):
        return Caller(key="", origin=origin)
    keys = _presented(scope)
    if not keys:
        hint = "send it as `Authorization: Bearer KEY`"
        raise _unauthorised(f"this server asks for an API key; {hint}", "no key")
    name = ring.name_of(keys[0]) if len(set(keys)) == 1 else None
    if name is None:
        raise _unauthorised("this API key is not known here; ask whoever runs the server for one", "wrong key")
    return Caller(key=name, origin=origin)


def _check_path(scope: Scope) -> None:
    """Nothing here is a file, and no honest client climbs: what comes after us need not know every trick."""
    path: str = scope["path"]
    for _ in range(3):  # as many times as anybody decodes it after us
        if _CLIMBS.search(path):
            raise RefusedError(400, "a path with dots or control characters; see /docs for the places", reason="path")
        path = unquote(path)


def _check_origin(scope: Scope, config: GuardConfig, ring: KeyRing) -> str:
    """Pages of other sites must not ask through somebody's browser, by a name that was made to lead here neither."""
    host = (header(scope, b"host") or b"").decode("latin-1").lower()
    if not ring.required and not _is_address(host):
        raise RefusedError(
            403, "without API keys this server answers to its IP address and to localhost alone", reason="host"
        )
    origin = (header(scope, b"origin") or b"").decode("latin-1").lower()
    if not origin or urlsplit(origin).netloc == host:
        return ""
    if origin in config.allowed_origins or "*" in config.allowed_origins:
        return origin
    raise RefusedError(403, "a page of another site; add it to guard.allowed_origins of the server", reason="origin")


def _is_address(host: str) -> bool:
    """Whether a Host is no name that somebody else's name server could lead here."""
    name = urlsplit(f"//{host}").hostname or ""
    return not name or is_loopback(name) or bool(re.fullmatch(r"[0-9.]+|[0-9a-f:.]+", name))


def _is_preflight(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "OPTIONS"


def _presented(scope: Scope) -> list[str]:
    """Every key that was sent, however it was sent."""
    keys = []
    for name, value in scope["headers"]:
        text = value.decode("latin-1").strip()
        if name in _KEY_HEADERS:
            keys.append(text)
        elif name == b"authorization":
            keys += [text[len(scheme) :].strip() for scheme in _SCHEMES if text.lower().startswith(scheme)]
    keys += [word[len(PROTOCOL_KEY) :] for word in scope.get("subprotocols", ()) if word.startswith(PROTOCOL_KEY)]
    return [key for key in keys if key]


def _unauthorised(message: str, reason: str) -> RefusedError:
    return RefusedError(401, message, reason=reason, headers={"WWW-Authenticate": "Bearer"})


async def answer_preflight(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell a browser that the page may ask."""
    allowed = ((b"access-control-allow-methods", b"GET, POST"), (b"access-control-max-age", b"600"))
    headers = [*allowed, (b"access-control-allow-headers", _ALLOWED_HEADERS.encode())]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def mark(message: Message, caller: Caller | None, request_id: str) -> Message:
    """The start of an answer with the request id, and for an allowed page with the permission to read it."""
    kept = [(name, value) for name, value in message.get("headers", ()) if name != b"x-request-id"]
    if request_id:
        kept.append((b"x-request-id", request_id.encode()))
    if caller is not None and caller.origin:
        kept = [(name, value) for name, value in kept if name != b"access-control-allow-origin"]
        kept += [(b"access-control-allow-origin", caller.origin.encode("latin-1")), (b"vary", b"origin")]
    return {**message, "headers": kept}
