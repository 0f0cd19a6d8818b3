"""What every request passes before it reaches the model, as one ASGI application around another.

In this order: a request id; the path and the page it comes from; its key; room for it, of the key and of all; its
body, in time, not too large and no bomb; the answer, in time and never a traceback. A refusal costs next to nothing
and says what to do.
"""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blm.serve.guard.body import ACTIONS, JSON, check_header, check_json, expects_body, read_body, replay
from blm.serve.guard.config import GuardConfig
from blm.serve.guard.entry import Caller, answer_preflight, enter, give_id, mark
from blm.serve.guard.errors import FAILED, RefusedError, failed, logger, send_refusal
from blm.serve.guard.keys import KeyRing
from blm.serve.guard.media_limits import check_conversation
from blm.serve.guard.rooms import Rooms
from blm.serve.guard.sockets import GuardedSocket, within
from blm.serve.observability.logs import REQUEST_ID

ALWAYS_ROOM = frozenset({"/health", "/healthz", "/livez", "/metrics"})
"""Whoever watches over the server must see it when it is full."""
INLINE_BYTES = 2**17
"""Larger bodies are looked through in a thread: until there it takes half a millisecond, as a thread's turn does."""


def guard(
    app: ASGIApp,
    config: GuardConfig,
    *,
    refused: Callable[[int, str], None] | None = None,
    echo_request_id: bool = True,
) -> ASGIApp:
    """`app` behind the guard.

    refused: called with status and reason of each refusal, for metrics. echo_request_id: whether answers carry
    `X-Request-Id`; Ray Serve's own servers add it themselves.
    """
    return Guard(app, config, refused=refused or _unnoticed, echo_request_id=echo_request_id)


def _unnoticed(status: int, reason: str) -> None:
    pass


class Guard:
    """An application and what is asked of those who want to reach it."""

    def __init__(
        self, app: ASGIApp, config: GuardConfig, *, refused: Callable[[int, str], None], echo_request_id: bool
    ) -> None:
        self._app = app
        self._config = config
        self._refused = refused
        self._echo = echo_request_id
        self._ring = KeyRing(config)
        self._rooms = Rooms(config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        give_id(scope)
        answer = Answer(send, self._config, request_id=REQUEST_ID.get() if self._echo else "")
        try:
            answer.caller = enter(scope, self._config, self._ring)
            if answer.caller.origin and scope["method"] == "OPTIONS":
                await answer_preflight(scope, receive, answer.send)
            elif scope["path"] in ALWAYS_ROOM:
                await self._answer(scope, receive, answer)
            else:
                with self._rooms.request(answer.caller.key):
                    await self._answer(scope, receive, answer)
        except RefusedError as refusal:
            self._refused(refusal.status, refusal.reason)
            await send_refusal(refusal, scope, answer.send)

    async def _answer(self, scope: Scope, receive: Receive, answer: "Answer") -> None:
        """Read the body, let the application answer. RefusedError for whatever comes in between."""
        assert answer.caller is not None
        scope["state"]["key"] = answer.caller.key
        if not expects_body(scope):
            await self._let_answer(scope, receive, answer)
            return
        kind = check_header(scope, self._config)
        with self._rooms.buffer() as grow:
            body = await read_body(receive, self._config, grow)
            if body is None:
                return  # nobody is there any more
            if kind == JSON:
                await self._check(body, conversation=scope["path"] != ACTIONS)
            await self._let_answer(scope, replay(body, receive), answer)

    async def _let_answer(self, scope: Scope, receive: Receive, answer: "Answer") -> None:
        """The application's turn. RefusedError if it fails, or does not begin in time."""
        try:
            async with asyncio.timeout(self._config.answer_s) as answer.deadline:
                await self._app(scope, receive, answer.send)
        except Exception as error:
            late = answer.deadline is not None and answer.deadline.expired()
            answer.deadline = None
            if answer.unread:
                self._refused(0, "unread")  # the client leaves its answer lying; there is nobody to tell
                return
            if answer.complete:
                _logged(scope)  # the application has said so itself
                return
            if answer.started:
                raise  # cuts the connection, so that nobody takes half an answer for a whole one
            if late:
                message = f"no answer within {self._config.answer_s:g} s; try again later"
                raise RefusedError(504, message, reason="slow answer") from None
            raise _logged(scope) from error

    async def _check(self, body: bytes, *, conversation: bool) -> None:
        """RefusedError for JSON that is no honest request; large bodies are looked through in a thread."""

        def check() -> None:
            check_json(body, self._config)
            if conversation:
                check_conversation(body, self._config)

        if len(body) < INLINE_BYTES:
            check()
        else:
            await asyncio.to_thread(check)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        give_id(scope)
        socket: GuardedSocket | None = None
        try:
            caller = enter(scope, self._config, self._ring)
            scope["state"]["key"] = caller.key
            with self._rooms.connection(caller.key):
                socket = GuardedSocket(scope, receive, send, key=caller.key, config=self._config, rooms=self._rooms)
                await self._app(scope, socket.receive, socket.send)
            if socket.refusal:
                self._refused(0, socket.refusal)
        except RefusedError as refusal:
            self._refused(refusal.status, refusal.reason)
            await send_refusal(refusal, scope, send)
        except Exception:
            if socket is not None and socket.gone:
                self._refused(0, socket.refusal or "gone")
                return
            sorry = _logged(scope)
            self._refused(sorry.status, sorry.reason)
            if socket is not None and socket.accepted:
                await socket.close(FAILED, sorry.message)
            else:
                await send_refusal(sorry, scope, send)


class Answer:
    """An answer on its way: whether it has begun, and that its client takes it in time."""

    def __init__(self, send: Send, config: GuardConfig, *, request_id: str) -> None:
        self._send = send
        self._config = config
        self._request_id = request_id
        self.caller: Caller | None = None
        self.deadline: asyncio.Timeout | None = None
        self.started = self.complete = False
        self.unread = False
        """Whether the client left it lying."""

    async def send(self, message: Message) -> None:
        """Pass a message on. TimeoutError, which is an OSError, if the client reads nothing for too long."""
        if message["type"] == "http.response.start":
            self.started = True
            if self.deadline is not None and not self.deadline.expired():
                self.deadline.reschedule(None)
            message = mark(message, self.caller, self._request_id)
        try:
            await within(self._config.send_s, self._send, message)
        except TimeoutError:
            self.unread = True
            raise
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)


def _logged(scope: Scope) -> RefusedError:
    """What a client is told of an error of ours, which goes into the log whole."""
    logger.exception("request %s to %s failed", REQUEST_ID.get(), scope["path"][:200].encode("unicode_escape").decode())
    return failed()
