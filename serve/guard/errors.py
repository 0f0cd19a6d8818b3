"""How the guard says no: the OpenAI protocol's error object with the right status, on a WebSocket its close code."""

import json
import logging
from collections.abc import Mapping

from starlette.types import Message, Scope, Send

from blm.serve.observability.logs import REQUEST_ID
from blm.serve.web.schema import error_object

logger = logging.getLogger("blm.serve.guard")

POLICY, TOO_BIG, FAILED, LATER = 1008, 1009, 1011, 1013
"""WebSocket close codes of a connection that is open already."""


class RefusedError(Exception):
    """A request that is not let through.

    status: of the answer. reason: one word or two for metrics, never anything that a client sent.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        reason: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The error object as JSON."""
        return json.dumps(error_object(self.message, self.status, param=self.param)).encode()


def failed() -> RefusedError:
    """What is said of an error of our own: where to find it in the log, and no more."""
    return RefusedError(
        500, f"the server failed; its log says more under request id {REQUEST_ID.get()}", reason="failed"
    )


async def send_refusal(refusal: RefusedError, scope: Scope, send: Send) -> None:
    """Answer a request, or a WebSocket's handshake, with a refusal. Nothing may have been answered yet."""
    kind = "http.response"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": POLICY, "reason": refusal.message[:120]})
            return
        kind = "websocket.http.response"
    body = refusal.body()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    start: Message = {"type": f"{kind}.start", "status": refusal.status, "headers": raw}
    await send(start)
    without_body = scope["type"] == "http" and scope["method"] == "HEAD"
    await send({"type": f"{kind}.body", "body": b"" if without_body else body})
