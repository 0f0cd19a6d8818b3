"""WebSockets behind the guard, driven by hand: who may open one, how much may come, and how long it may be silent."""

import asyncio

from small_guard import BEARER, KEY, KEYS, OTHER, Socket, guarded, run


def test_messages_pass() -> None:
    async def work() -> None:
        socket = Socket(guarded())
        assert (await socket.hear())["type"] == "websocket.accept"
        socket.say(b"hello")
        assert (await socket.hear())["bytes"] == b"hello"
        await socket.leave()

    run(work)


def test_a_handshake_without_key_is_refused_as_a_request_is() -> None:
    async def work() -> None:
        app = guarded(**KEYS)
        assert (await Socket(app).hear())["status"] == 401
        assert (await Socket(app, headers={"origin": "https://evil.example"} | BEARER).hear())["status"] == 403
        assert (await Socket(app, headers=BEARER).hear())["type"] == "websocket.accept"
        accepted = await Socket(app, protocols=["blm", f"blm-key.{KEY}"]).hear()
        assert accepted["subprotocol"] == "blm"

    run(work)


def test_silence_a_large_message_and_a_failure_end_it() -> None:
    async def work() -> None:
        idle = Socket(guarded(idle_s=0.1))
        await idle.hear()
        await asyncio.sleep(0.06)
        idle.say(b"still here")
        await idle.hear()
        assert (await idle.hear())["code"] == 1001
        large = Socket(guarded(max_message_bytes=4))
        await large.hear()
        large.say(b"12345")
        assert (await large.hear())["code"] == 1009
        broken = Socket(guarded())
        await broken.hear()
        broken.put({"type": "websocket.receive", "text": "break"})
        closed = await broken.hear()
        assert closed["code"] == 1011
        assert "secret" not in closed["reason"]
        early = await Socket(guarded(), "/socket?breaks=early").hear()
        assert early["status"] == 500
        for socket in (idle, large, broken):
            await asyncio.wait_for(socket.task, 5)

    run(work)


def test_one_that_takes_nothing_is_given_up() -> None:
    async def work() -> None:
        socket = Socket(guarded(send_s=0.05))
        await socket.hear()
        socket.taken.clear()
        socket.say(b"hello")
        await asyncio.wait_for(socket.task, 5)

    run(work)


def test_connections_are_bounded_and_messages_paced() -> None:
    async def work() -> None:
        app = guarded(key_connections=1, key_rate_per_s=20, key_burst=1, **KEYS)
        first = Socket(app, headers=BEARER)
        await first.hear()
        assert (await Socket(app, headers=BEARER).hear())["status"] == 429
        assert (await Socket(app, headers={"x-api-key": OTHER}).hear())["type"] == "websocket.accept"
        began = asyncio.get_running_loop().time()
        for _ in range(5):
            first.say(b"quick")
        for _ in range(5):
            assert (await first.hear())["bytes"] == b"quick"
        assert asyncio.get_running_loop().time() - began >= 3.9 / 20
        await first.leave()
        assert (await Socket(app, headers=BEARER).hear())["type"] == "websocket.accept"

    run(work)
