"""The web application of one replica: every client's protocol on one port, and nothing that is not listed here.

    POST /v1/chat/completions ...      vLLM's own application, an allow-list of its places (CHAT)
    POST /v1/actions                   web/actions.py
    WebSocket /  /blm  /openpi  /starvla  /vla-eval      sessions/sessions.py
    GET  /v1/contract                  what the policy needs and gives
    GET  /health  /livez               ready to answer; alive
    GET  /healthz  /config             the same, and the batches, as openpi and vla-eval ask for them
    GET  /docs  /openapi.json          web/docs.py

It knows no keys and no limits: serve/guard/guard.py stands before it.
"""

import asyncio
import ipaddress
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from blm.serve.batches.service import BatchingService
from blm.serve.config import SERVED_NAME, ServeConfig
from blm.serve.engine.engine import Engine
from blm.serve.observability.logs import log
from blm.serve.observability.metrics import Metrics
from blm.serve.sessions.contract import contract_of
from blm.serve.sessions.routes import configure, is_local, websocket_routes
from blm.serve.sessions.sessions import Sessions
from blm.serve.web.actions import PLACE, add_actions
from blm.serve.web.docs import describe
from blm.serve.web.schema import ErrorReply, error_object

CHAT: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("POST",),
    "/v1/completions": ("POST",),
    "/v1/responses": ("POST",),
    "/v1/models": ("GET",),
    "/tokenize": ("POST",),
    "/detokenize": ("POST",),
}
"""Places of vLLM's application that are let through: none that loads weights, adapters or code, or stops the server."""
CHECK_S = 5.0
NO_CHAT = "this server was started for actions only; it holds no conversation"
NO_ACTIONS = "this server was started for conversation only; start it without --chat-only"


class Forward:
    """One place of another application, as an endpoint of this one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The other application sees the request as if it had come to it alone."""
        ours = ("app", "router", "route", "endpoint", "path_params")
        await self._app({key: value for key, value in scope.items() if key not in ours}, receive, send)


def build_web(
    engine: Engine,
    service: BatchingService | None,
    config: ServeConfig,
    extras: Sequence[BaseRoute] = (),
    *,
    sessions: Sessions | None = None,
    metrics: Metrics | None = None,
) -> ASGIApp:
    """The application over an engine.

    service: answers observations; None: conversation only. extras: more places. sessions: where open conversations are
    kept, so that they can be told to end; while it drains, `/health` says so and new ones are refused.
    """
    sessions = sessions if sessions is not None else Sessions()
    metrics = metrics if metrics is not None else Metrics()
    app = FastAPI(title="Boundless Large Model", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(HTTPException, _as_error)
    app.add_exception_handler(Exception, _crashed)
    _add_health(app, engine, service, sessions)
    if service is not None:
        metrics.serves(service.description.name, service.description.identity)
        add_actions(app, service, config.session, config.actions.timeout_s)
        _add_contract(app, service, settable=_loopback(config.host))
        app.router.routes += websocket_routes(service, config.session, sessions)
    else:
        app.router.routes.append(Route(PLACE, _refusal(NO_ACTIONS), methods=["POST"]))
    for place, methods in CHAT.items():
        endpoint: Any = Forward(engine.chat) if engine.chat is not None else _refusal(NO_CHAT)
        if place == "/v1/models" and engine.chat is None:
            endpoint = _models
        app.router.routes.append(Route(place, endpoint, methods=list(methods)))
    app.router.routes += [Route("/v1/models/{name}", _model), *extras]
    describe(app, engine.chat, CHAT)
    return app


def _add_health(app: FastAPI, engine: Engine, service: BatchingService | None, sessions: Sessions) -> None:
    async def health() -> Response:
        if sessions.draining:
            return _error("this server stops; ask another", 503, {"Retry-After": "1"})
        try:
            await asyncio.wait_for(engine.check(), CHECK_S)
        except Exception as error:  # whatever it is, the engine is not well
            log("unhealthy", error=error)
            return _error(f"the model does not answer ({type(error).__name__})", 503, {"Retry-After": "1"})
        return JSONResponse(
            {
                "status": "ok",
                "model": SERVED_NAME,
                "chat": engine.chat is not None,
                "actions": service is not None,
                **engine.facts,
            }
        )

    async def healthz() -> Response:
        answer = await health()
        return PlainTextResponse("OK\n") if answer.status_code == 200 else answer

    async def livez() -> Response:
        return JSONResponse({"status": "ok"})

    down: dict[int | str, dict[str, Any]] = {503: {"model": ErrorReply, "description": "not now"}}
    plain: dict[str, Any] = {"methods": ["GET"], "response_model": None, "tags": ["server"]}
    app.add_api_route("/health", health, summary="Whether it is ready to answer", responses=down, **plain)
    app.add_api_route(
        "/healthz", healthz, summary="The same in plain text", responses=down, response_class=PlainTextResponse, **plain
    )
    app.add_api_route("/livez", livez, summary="Whether it is alive", **plain)


def _add_contract(app: FastAPI, service: BatchingService, *, settable: bool) -> None:
    async def contract() -> Response:
        return JSONResponse(contract_of(service.description))

    async def configuration(request: Request) -> Response:
        return configure(service, dict(request.query_params), from_here=settable and is_local(request))

    plain: dict[str, Any] = {"methods": ["GET"], "response_model": None, "tags": ["actions"]}
    app.add_api_route("/v1/contract", contract, summary="What the policy needs and gives", **plain)
    app.add_api_route("/config", configuration, summary="How observations are put together", **plain)


_CARD = {"id": SERVED_NAME, "object": "model", "created": 0, "owned_by": "blm"}


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_CARD]})


async def _model(request: Request) -> Response:
    """One model's card, which vLLM's application does not have."""
    if request.path_params["name"] == SERVED_NAME:
        return JSONResponse(_CARD)
    return _error(f"no model {request.path_params['name'][:80]!r} here; this server has {SERVED_NAME}", 404)


def _refusal(message: str) -> Any:
    async def refuse(request: Request) -> Response:
        return _error(message, 404)

    return refuse


async def _as_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (no such place, another method) in the one form of errors."""
    assert isinstance(error, HTTPException)
    message = {404: f"no such place: {request.url.path[:200]}", 405: f"{request.method} is not for this place"}
    return _error(message.get(error.status_code, str(error.detail)), error.status_code, dict(error.headers or {}))


async def _crashed(request: Request, error: Exception) -> Response:
    log("crashed", error=error, path=request.url.path)
    return _error(f"the server failed ({type(error).__name__})", 500)


def _error(message: str, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(error_object(message, status), status, headers)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
