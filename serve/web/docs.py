"""`/openapi.json` and `/docs`: our places, and those of vLLM's application that are let through.

The page is a file of ours that loads nothing from elsewhere, so that it works without the internet, and no foreign
script runs where keys are typed.
"""

import asyncio
import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from blm.serve.observability.logs import log

PAGE = Path(__file__).parent.parent / "static" / "docs.html"
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
DESCRIPTION = """One model that talks about what it sees and moves robots.

Actions are also spoken over WebSockets: openpi's protocol at / and /openpi, vla-eval's at / and /vla-eval, starVLA's at
/starvla, our own at /blm; arrays travel as msgpack.

A server with keys wants one as `Authorization: Bearer KEY`, `Authorization: Api-Key KEY` or `X-API-Key: KEY`."""
_REF = "#/components/schemas/"


def describe(app: FastAPI, chat: ASGIApp | None, places: Mapping[str, Sequence[str]]) -> None:
    """Give the application its places, and `/` to people.

    places: those of `chat` that are let through, with their methods.
    """

    @functools.cache
    def specification() -> bytes:
        ours = get_openapi(title=app.title, version="1", description=DESCRIPTION, routes=app.routes)
        return json.dumps(with_keys(joined(ours, _theirs(chat), places))).encode()

    async def openapi(request: Request) -> Response:
        told = await asyncio.to_thread(specification)  # vLLM's takes a second, once
        return Response(told, media_type="application/json")

    async def docs(request: Request) -> Response:
        return HTMLResponse(PAGE.read_text(), headers={"Content-Security-Policy": POLICY})

    async def index(request: Request) -> Response:
        return RedirectResponse("/docs")

    app.router.routes += [Route("/", index), Route("/openapi.json", openapi), Route("/docs", docs)]


def _theirs(chat: ASGIApp | None) -> dict[str, Any]:
    """What the other application says of itself; nothing, if it cannot."""
    if not isinstance(chat, FastAPI):
        return {}
    try:
        return chat.openapi()
    except Exception as error:  # a model of its requests that cannot be written down must not cost us ours
        log("no_chat_docs", level=logging.WARNING, error=error)
        return {}


def joined(ours: dict[str, Any], theirs: Mapping[str, Any], places: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Two descriptions as one: of the second, the places that are let through and the schemas they need."""
    paths = {
        place: {method: told for method, told in theirs["paths"][place].items() if method.upper() in methods}
        for place, methods in places.items()
        if place in theirs.get("paths", {})
    }
    known = theirs.get("components", {}).get("schemas", {})
    needed: set[str] = set()
    todo = _named(paths)
    while todo:
        name = todo.pop()
        if name not in needed and name in known:
            needed.add(name)
            todo |= _named(known[name])
    schemas = {name: known[name] for name in sorted(needed)} | ours.get("components", {}).get("schemas", {})
    return ours | {"paths": paths | ours["paths"], "components": ours.get("components", {}) | {"schemas": schemas}}


def _named(part: Any) -> set[str]:
    """Names of the schemas that something refers to."""
    found: set[str] = set()
    todo = [part]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            reference = one.get("$ref")
            if isinstance(reference, str) and reference.startswith(_REF):
                found.add(reference.removeprefix(_REF))
            todo += one.values()
        elif isinstance(one, list):
            todo += one
    return found


def with_keys(specification: dict[str, Any]) -> dict[str, Any]:
    """The description, with the two ways of showing a key; a server without keys asks for none."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    components = specification["components"] | {"securitySchemes": schemes}
    return specification | {"components": components, "security": [{}, {"bearer": []}, {"header": []}]}
