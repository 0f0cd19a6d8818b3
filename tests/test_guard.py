"""The guard round a small application, asked by hand: who is let in, how much, how large, how long."""

import asyncio
import logging
from typing import Any

import pytest
from small_guard import BEARER, KEY, KEYS, NEVER, OTHER, Reply, ask, guarded, run

from blm.model.errors import UserError
from blm.serve.guard.config import GuardConfig
from blm.serve.guard.guard import guard
from blm.serve.observability.logs import REQUEST_ID


def reply_to(app: Any, path: str, body: Any = None, **how: Any) -> Reply:
    """One answer."""
    reply: Reply = run(lambda: ask(app, path, body, **how))
    return reply


class TestWhoIsLetIn:
    def test_a_request_keeps_its_id_and_gets_one_otherwise(self) -> None:
        app = guarded()
        assert reply_to(app, "/who", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
        for given in ("", "two words", "x" * 65, "line\x85break"):
            reply = reply_to(app, "/who", headers={"x-request-id": given})
            assert len(reply.headers["x-request-id"]) == 32
            assert reply.headers["x-request-id"].encode() in reply.body

    def test_the_id_stands_in_the_context_of_whoever_logs(self) -> None:
        seen = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(REQUEST_ID.get())

        reply_to(guard(app, GuardConfig()), "/who", headers={"x-request-id": "abc-2"})
        assert seen == ["abc-2"]

    def test_without_keys_everybody_on_this_machine_is_let_in(self) -> None:
        reply = reply_to(guarded(), "/who", headers={"authorization": "Bearer empty"})
        assert reply.status == 200
        assert b'"key":""' in reply.body

    @pytest.mark.parametrize(
        "headers",
        [
            BEARER,
            {"authorization": f"bearer {KEY}"},
            {"authorization": f"Api-Key {KEY}"},
            {"x-api-key": KEY},
            {"api-key": KEY},
        ],
    )
    def test_a_key_opens_however_it_is_sent(self, headers: dict[str, str]) -> None:
        reply = reply_to(guarded(**KEYS), "/who", headers=headers)
        assert reply.status == 200
        assert b'"key":"robot"' in reply.body

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": KEY},
            {"x-api-key": KEY[:-1]},
            BEARER | {"x-api-key": OTHER},
        ],
    )
    def test_no_key_a_wrong_one_and_two_are_refused(self, headers: dict[str, str]) -> None:
        reply = reply_to(guarded(**KEYS), "/v1/actions", b"{}", headers=headers)
        assert reply.status == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "key" in reply.error["message"]
        assert KEY not in reply.body.decode()

    def test_health_and_documentation_need_no_key(self) -> None:
        assert reply_to(guarded(**KEYS), "/health").status == 200
        assert reply_to(guarded(**KEYS), "/health/").status == 401

    @pytest.mark.parametrize(
        "path", ["/../etc/passwd", "/v1/%2e%2e/x", "/v1/..%2fx", "/v1\\x", "/a/./b", "/a\x00b", "/%252e%252e/"]
    )
    def test_paths_that_climb_are_refused(self, path: str) -> None:
        assert reply_to(guarded(), path).status == 400

    def test_pages_of_other_sites_are_refused_unless_allowed(self) -> None:
        page = {"origin": "https://evil.example"}
        assert reply_to(guarded(), "/who", headers=page).status == 403
        assert reply_to(guarded(), "/who", headers={"origin": "null"}).status == 403
        assert reply_to(guarded(), "/who", headers={"origin": "http://127.0.0.1:8000"}).status == 200
        allowed = guarded(allowed_origins=("https://evil.example",), **KEYS)
        assert reply_to(allowed, "/who", headers=page).status == 401
        reply = reply_to(allowed, "/who", headers=page | BEARER)
        assert reply.headers["access-control-allow-origin"] == "https://evil.example"
        asked = page | {"access-control-request-method": "POST"}
        assert reply_to(allowed, "/who", method="OPTIONS", headers=asked).status == 204

    @pytest.mark.parametrize(
        ("host", "status"), [("localhost:8000", 200), ("[::1]:8000", 200), ("192.168.0.7", 200), ("evil.example", 403)]
    )
    def test_without_keys_no_foreign_name_leads_here(self, host: str, status: int) -> None:
        assert reply_to(guarded(), "/who", headers={"host": host}).status == status
        assert reply_to(guarded(**KEYS), "/who", headers=BEARER | {"host": host}).status == 200


class TestBodies:
    def test_a_body_reaches_the_application_whole(self) -> None:
        parts = [{"type": "http.request", "body": b"[1,", "more_body": True}, {"type": "http.request", "body": b"2]"}]
        assert reply_to(guarded(), "/echo", parts).body == b"[1,2]"

    def test_large_bodies_are_refused_whether_they_say_so_or_not(self) -> None:
        app = guarded(max_body_bytes=1000)
        assert reply_to(app, "/echo", b"[" + b" " * 998 + b"]").status == 200
        assert reply_to(app, "/echo", b"1" * 1001).status == 413
        assert reply_to(app, "/echo", [NEVER], headers={"content-length": "9" * 30}).status == 413
        parts = [{"type": "http.request", "body": b"1" * 400, "more_body": True}] * 3
        assert reply_to(app, "/echo", [*parts, NEVER]).status == 413

    @pytest.mark.parametrize(
        "headers",
        [
            {"content-encoding": "gzip"},
            {"content-encoding": "br, gzip"},
            {"content-type": "application/x-pickle"},
            {"content-type": "text/plain"},
        ],
    )
    def test_compressed_and_foreign_bodies_are_refused_unread(self, headers: dict[str, str]) -> None:
        assert reply_to(guarded(), "/echo", [NEVER], headers=headers).status == 415

    def test_msgpack_is_for_actions_alone(self) -> None:
        packed = {"content-type": "application/msgpack"}
        assert reply_to(guarded(), "/v1/actions", b"\x80", headers=packed).body == b"\x80"
        assert reply_to(guarded(), "/v1/chat/completions", b"\x80", headers=packed).status == 415

    def test_a_body_that_stops_coming_is_given_up(self) -> None:
        reply = reply_to(
            guarded(body_s=0.05), "/echo", [{"type": "http.request", "body": b"[", "more_body": True}, NEVER]
        )
        assert reply.status == 408
        assert reply.headers["connection"] == "close"

    def test_a_client_that_leaves_gets_no_answer(self) -> None:
        assert reply_to(guarded(), "/echo", [{"type": "http.disconnect"}]).status == 0

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"[" * 64 + b"]" * 64, 200),
            (b"[" * 65 + b"]" * 65, 400),
            (b'{"a":' * 65 + b"1" + b"}" * 65, 400),
            (b'["' + b"[" * 500 + b'", "\\"[[[["]', 200),
            (b"[[],[],[]" + b",[]" * 200 + b"]", 200),
            (b"[" + b"{}," * 600_000 + b"1]", 413),
            ('{"a": "b"}'.encode("utf-16"), 400),
            ('{"a": "b"}'.encode("utf-16-be"), 400),
            (b"\xef\xbb\xbf{}", 400),
        ],
    )
    def test_json_is_looked_at_before_it_is_parsed(self, body: bytes, status: int) -> None:
        assert reply_to(guarded(), "/v1/actions", body).status == status


class TestRoom:
    def test_a_key_has_a_rate_of_its_own(self) -> None:
        app = guarded(key_rate_per_s=0.5, key_burst=2, **KEYS)

        async def work() -> None:
            statuses = [(await ask(app, "/who", headers=BEARER)).status for _ in range(3)]
            assert statuses == [200, 200, 429]
            reply = await ask(app, "/who", headers=BEARER)
            assert int(reply.headers["retry-after"]) == 2
            assert (await ask(app, "/who", headers={"x-api-key": OTHER})).status == 200

        run(work)

    def test_requests_at_a_time_are_bounded_for_a_key_and_for_all(self) -> None:
        app = guarded(key_requests=1, max_requests=2, **KEYS)
        refusals: list[Any] = []
        app._refused = lambda *what: refusals.append(what)

        async def work() -> None:
            first = asyncio.create_task(ask(app, "/wait?s=0.2", headers=BEARER))
            await asyncio.sleep(0)
            assert (await ask(app, "/who", headers=BEARER)).status == 429
            second = asyncio.create_task(ask(app, "/wait?s=0.2", headers={"x-api-key": OTHER}))
            await asyncio.sleep(0)
            full = await ask(app, "/who", headers=BEARER)
            assert (full.status, full.headers["retry-after"]) == (503, "1")
            assert (await ask(app, "/health")).status == 200
            assert [(await task).status for task in (first, second)] == [200, 200]
            assert (await ask(app, "/who", headers=BEARER)).status == 200
            assert refusals == [(429, "key's limit"), (503, "full")]

        run(work)

    def test_bodies_at_a_time_are_bounded_together(self) -> None:
        app = guarded(max_body_bytes=1000, max_buffered_bytes=1500)

        async def work() -> None:
            first = asyncio.create_task(ask(app, "/wait?s=0.2", b"[" + b" " * 900 + b"]"))
            await asyncio.sleep(0)
            assert (await ask(app, "/echo", b"[" + b" " * 900 + b"]")).status == 503
            assert (await ask(app, "/echo", b"[1]")).status == 200
            assert (await first).status == 200
            assert (await ask(app, "/echo", b"[" + b" " * 900 + b"]")).status == 200

        run(work)


class TestAnswers:
    def test_an_error_of_ours_shows_nothing_of_the_inside(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.ERROR):
            reply = reply_to(guarded(), "/breaks", headers={"x-request-id": "abc-3"})
        assert reply.status == 500
        assert "abc-3" in reply.error["message"]
        assert b"secret" not in reply.body
        assert "Traceback" not in reply.body.decode()
        assert "a secret of the inside" in caplog.text
        assert reply_to(guarded(), "/apologises").body == b"Internal Server Error"

    def test_an_answer_must_begin_in_time_and_may_then_take_its_time(self) -> None:
        assert reply_to(guarded(answer_s=0.05), "/wait?s=5").status == 504
        assert reply_to(guarded(answer_s=0.05), "/stream").body == b"part" * 3

    def test_an_answer_that_nobody_reads_is_given_up(self) -> None:
        assert reply_to(guarded(send_s=0.05), "/stream", unread=True).body == b""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_requests": 0}, "max_requests is 0"),
        ({"idle_s": 0.0}, "idle_s"),
        ({"key_hashes": {"robot": "plain"}}, "blm keys new robot"),
        ({"open_paths": ("/v1/actions",)}, "open_paths"),
        ({"key_rate_per_s": -1.0}, "key_rate_per_s"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        GuardConfig(**options)
