"""The front door: Ray Serve LLM's OpenAI endpoints, and ours beside them, on one port.

Importing this module imports vLLM; only the server's own processes and `blm.serve.app` do.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

from blm.model.errors import UserError
from blm.serve.actions import Answer, Question
from blm.serve.config import SERVED_NAME, ActionsConfig
from blm.serve.schema import ActionReply, ActionRequest, Timing, error_object, explain

BUSY = "too many requests are waiting; try again in a moment"
HEALTH_TIMEOUT_S = 5.0
ROUTES = {
    "models": lambda app: app.get("/v1/models"),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
    "chat": lambda app: app.post("/v1/chat/completions"),
    "completions": lambda app: app.post("/v1/completions"),
    "actions": lambda app: app.post("/v1/actions", response_model=ActionReply, openapi_extra=_request_body()),
    "health": lambda app: app.get("/health"),
}
"""Method of `Ingress` -> its place."""


def _request_body() -> dict[str, Any]:
    """The request's schema for the API's own documentation; the body is read by hand, for the errors' sake."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ActionRequest.model_json_schema()}},
        }
    }


class Ingress(OpenAiIngress):
    """Chat goes to vLLM's replicas, actions to the policy's."""

    def __init__(self, *, config: ActionsConfig, policy: Any = None, **chat: Any) -> None:
        super().__init__(**chat)
        self._config = config
        self._policy = policy

    async def chat(self, body: ChatCompletionRequest, request: Request) -> Response:
        """A conversation, whole or streamed."""
        return await _plainly(super().chat(body, request))

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        """A text to go on with, whole or streamed."""
        return await _plainly(super().completions(body, request))

    async def actions(self, request: Request) -> Any:
        """One observation in, one action chunk out."""
        began = time.time()
        if self._policy is None:
            return _error("this server was started for conversation only; start it without --chat-only", 404)
        try:
            body = ActionRequest.model_validate_json(await request.body())
            if body.model != SERVED_NAME:
                return _error(f"no model {body.model!r} here; this server has {SERVED_NAME}", 404, param="model")
            observation = await asyncio.to_thread(body.observation)
            question = Question(observation=observation, seed=body.seed, asked_s=time.time())
            answer: Answer = await asyncio.wait_for(self._policy.infer.remote(question), self._config.timeout_s)
        except ValidationError as error:
            message, param = explain(error)
            malformed = any(one["type"] == "json_invalid" for one in error.errors())
            return _error(message, 400 if malformed else 422, param=param)
        except UserError as error:
            return _error(str(error), 400)
        except BackPressureError:
            return _error(BUSY, 503)
        except (TimeoutError, RayServeException):
            return _error("the policy does not answer at the moment; try again", 503)
        if answer.actions is None:
            return _error(answer.refusal, 400)
        return ActionReply(
            embodiment=observation.embodiment,
            actions=answer.actions.tolist(),
            names=list(answer.names),
            control_hz=answer.control_hz,
            timing=Timing(
                queue_ms=round(answer.queue_ms, 3),
                infer_ms=round(answer.infer_ms, 3),
                total_ms=round(1e3 * (time.time() - began), 3),
                batch=answer.batch,
            ),
        )

    async def health(self) -> Any:
        """200 once every part answers, 503 before and when one is lost."""
        parts: dict[str, Any] = {"chat": self._default_serve_handles[SERVED_NAME].check_health.remote}
        if self._policy is not None:
            parts["actions"] = self._policy.ready.remote
        for name, ask in parts.items():
            try:
                await asyncio.wait_for(ask(), HEALTH_TIMEOUT_S)
            except Exception as error:  # whatever it is, the part is not healthy
                return _error(f"{name} does not answer ({type(error).__name__})", 503)
        return {"status": "ok", "model": SERVED_NAME, "parts": list(parts)}


async def _plainly(answer: Awaitable[Response]) -> Response:
    """The answer, or its error without what Ray adds of its own inner workings."""
    try:
        return await answer
    except BackPressureError:
        return _error(BUSY, 503)
    except Exception as error:
        status = getattr(error, "status_code", 500)
        if status >= 500:
            raise
        return _error(str(getattr(error, "message", None) or getattr(error, "detail", None) or error), status)


def _error(message: str, status: int, *, param: str | None = None) -> JSONResponse:
    return JSONResponse(error_object(message, status, param=param), status_code=status)


def make_ingress() -> Any:
    """The ingress class with its routes."""
    return make_fastapi_ingress(Ingress, endpoint_map=ROUTES)
