"""`POST /v1/actions`: one observation in, one action chunk out, as JSON or as msgpack, each both ways."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from blm.model.errors import UserError
from blm.model.types import Observation
from blm.model.wire import pack, unpack_map
from blm.serve.batches.answers import Answer
from blm.serve.batches.service import BatchingService
from blm.serve.config import SERVED_NAME
from blm.serve.observability.metrics import Metrics
from blm.serve.sessions.contract import ContractError
from blm.serve.sessions.observations import Reader
from blm.serve.sessions.session import INLINE_BYTES, BusyError, SessionConfig, complaint
from blm.serve.web.schema import ActionReply, ActionRequest, ErrorReply, error_object, explain, read_question

PLACE = "/v1/actions"
MSGPACK = "application/msgpack"
_MSGPACKS = (MSGPACK, "application/x-msgpack", "application/vnd.msgpack")
_JSONS = ("application/json", "")
LATE = "the policy does not answer at the moment; try again"


class FieldError(UserError):
    """A request with a wrong field: its status and the field besides."""

    def __init__(self, message: str, status: int, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param


def add_actions(app: FastAPI, service: BatchingService, config: SessionConfig, timeout_s: float) -> None:
    """Give the application the place."""
    reader = config.reader(service.description)

    async def actions(request: Request) -> Response:
        began_s = time.perf_counter()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        packed = _wants_msgpack(request, kind)
        protocol = "msgpack" if kind in _MSGPACKS else "json"
        try:
            if kind not in _MSGPACKS + _JSONS:
                raise FieldError(f"send application/json or {MSGPACK}", 415)
            understand = from_msgpack if kind in _MSGPACKS else from_json
            observation, seed = await _off_loop(understand, await request.body(), reader)
            (answer,) = await asyncio.wait_for(
                service.infer([observation], [seed], protocol=protocol, began_s=began_s), timeout_s
            )
        except Exception as error:
            return _failed(error, service.metrics, packed=packed)
        layout = service.description.layout(observation.embodiment)
        return _answered(answer, observation, layout.action_names, packed=packed)

    app.add_api_route(
        PLACE,
        actions,
        methods=["POST"],
        summary="The next actions of a robot",
        description=(ActionRequest.__doc__ or "").strip(),
        tags=["actions"],
        response_model=None,
        responses=_responses(),
        openapi_extra={"requestBody": _request_body()},
    )


async def _off_loop(
    understand: Callable[[bytes, Reader], tuple[Observation, int]], body: bytes, reader: Reader
) -> tuple[Observation, int]:
    if len(body) < INLINE_BYTES and b"image" not in body[:INLINE_BYTES]:
        return understand(body, reader)
    return await asyncio.to_thread(understand, body, reader)


def from_json(body: bytes, reader: Reader) -> tuple[Observation, int]:
    """An observation and its seed of a JSON request. FieldError or UserError for what does not fit."""
    try:
        request = ActionRequest.model_validate_json(body)
    except ValidationError as error:
        message, param = explain(error)
        malformed = any(one["type"] == "json_invalid" for one in error.errors(include_input=False))
        raise FieldError(message, 400 if malformed else 422, param) from None
    _check_model(request.model)
    return read_question(dict(request), reader)


def from_msgpack(body: bytes, reader: Reader) -> tuple[Observation, int]:
    """An observation and its seed of a msgpack request. FieldError or UserError for what does not fit."""
    fields = unpack_map(body)
    if unknown := [name for name in fields if name not in ActionRequest.model_fields]:
        name = str(unknown[0])[:40]
        raise FieldError(f"{name}: no such field; there is {', '.join(ActionRequest.model_fields)}", 422, name)
    _check_model(fields.get("model", SERVED_NAME))
    return read_question(fields, reader)


def _check_model(name: Any) -> None:
    if name != SERVED_NAME:
        raise FieldError(f"no model {str(name)[:80]!r} here; this server has {SERVED_NAME}", 404, "model")


def _wants_msgpack(request: Request, kind: str) -> bool:
    """Whether the answer is to be msgpack: if that is accepted, or else if it is spoken and anything is accepted."""
    accepted = request.headers.get("accept", "*/*").lower()
    if any(one in accepted for one in _MSGPACKS):
        return True
    return kind in _MSGPACKS and "application/json" not in accepted


def _answered(answer: Answer, observation: Observation, names: tuple[str, ...], *, packed: bool) -> Response:
    actions = np.ascontiguousarray(answer.chunk.actions, dtype=np.float32)
    reply = {
        "object": "action_chunk",
        "model": SERVED_NAME,
        "embodiment": observation.embodiment,
        "actions": actions if packed else actions.tolist(),
        "names": list(names),
        "control_hz": answer.chunk.control_hz,
        "timing": answer.timing.to_wire(),
    }
    return Response(pack(reply), media_type=MSGPACK) if packed else JSONResponse(reply)


def _failed(error: Exception, metrics: Metrics, *, packed: bool) -> Response:
    status, param, headers = 500, None, {}
    if isinstance(error, FieldError):
        status, param = error.status, error.param
        metrics.refused(status, "bad_request")
        message = str(error)
    elif isinstance(error, TimeoutError):
        status, message, headers = 503, LATE, {"Retry-After": "1"}
        metrics.refused(status, "late")
    else:
        message = complaint(error, metrics)
        if isinstance(error, BusyError):
            status, headers = 503, {"Retry-After": str(error.retry_after_s)}
        elif isinstance(error, UserError):
            status, param = (409, "contract") if isinstance(error, ContractError) else (400, None)
    body = error_object(message, status, param=param)
    if packed:
        return Response(pack(body), status, headers, media_type=MSGPACK)
    return JSONResponse(body, status, headers)


def _request_body() -> dict[str, Any]:
    schema = ActionRequest.model_json_schema()
    packed = {
        "type": "string",
        "format": "binary",
        "description": "the same map, arrays as openpi writes them",
    }
    return {"required": True, "content": {"application/json": {"schema": schema}, MSGPACK: {"schema": packed}}}


def _responses() -> dict[int | str, dict[str, Any]]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    said = {
        400: "the observation does not fit the policy, or is not readable",
        401: "no key, or a wrong one",
        404: "another model's name",
        409: "another contract than the served policy's",
        413: "too large",
        415: "neither JSON nor msgpack",
        422: "a field is missing, unknown or of another type",
        429: "this key asks too much",
        500: "the policy failed",
        503: "too many wait; Retry-After says when to ask again",
    }
    return {
        200: {"model": ActionReply, "description": "an action chunk", "content": {MSGPACK: binary}},
        **{status: {"model": ErrorReply, "description": text} for status, text in said.items()},
    }
