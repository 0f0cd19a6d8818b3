"""Every abuse that we thought of, over real sockets: refused with the right status, and the server goes on serving."""

import base64
import gzip
import io
import pickle
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image
from small_abuse import GOOD, KEY, LIMITS, Victim, dribble, frame, inner_service, rest, victim
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from blm.model.wire import pack

PACKED = {**GOOD, "Content-Type": "application/msgpack"}
LATE_S = 3.0
"""More than a limit of `LIMITS`, much less than for ever."""


@pytest.fixture(scope="module")
def server() -> Iterator[Victim]:
    """One server for everything."""
    with victim() as running:
        yield running


@pytest.fixture(autouse=True)
def _still_serving(server: Victim) -> Iterator[None]:
    """After each abuse a good request is answered."""
    yield
    assert server.act()[0] == 200


def huge_picture() -> bytes:
    """A hundred megapixels in twelve kilobytes."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, format="PNG")
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("given", ["", "wrong", KEY[:-1], KEY + "x", "é" * 20, "x" * 3000])
def test_wrong_keys(server: Victim, given: str) -> None:
    headers = {"Authorization": f"Bearer {given}".encode().decode("latin-1")}
    status, reply = server.send("POST", "/v1/actions", b"{}", headers)
    assert (status, reply["error"]["code"]) == (401, 401)
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{server.port}/blm", additional_headers={"Authorization": "Bearer wrong"})
    assert refused.value.response.status_code == 401


# --------------------------------------------------------------------------------------------------------------- sizes


def test_oversize_bodies(server: Victim) -> None:
    header = f"POST /v1/actions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()
    announced = server.raw(header + b"Content-Length: 10000000000\r\n\r\n")
    assert announced.recv(100).startswith(b"HTTP/1.1 413")
    assert dribble(announced, b"x" * 1000) < LATE_S, "what is refused may not go on for ever"
    chunk = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    unannounced = server.raw(header + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 17)
    assert unannounced.recv(100).startswith(b"HTTP/1.1 413")
    unannounced.close()
    assert server.send("POST", "/v1/actions", b"x" * 2**21)[0] == 413, "a client that sends it all hears why"


def test_oversize_headers_and_addresses(server: Victim) -> None:
    assert b" 431 " in rest(server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 5000))
    assert b" 431 " in rest(server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 5000 + b"\r\n\r\n"))
    assert b" 431 " in rest(server.raw(b"GET /" + b"y" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"))


def test_oversize_messages_compressed_or_not(server: Victim) -> None:
    for compression in (None, "deflate"):
        with connect(f"ws://127.0.0.1:{server.port}/blm", additional_headers=GOOD, compression=compression) as client:
            client.send(bytes(2**20 + 1))
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=5)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009


# --------------------------------------------------------------------------------------------------------------- bombs


def test_compressed_bodies(server: Victim) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    headers = {**GOOD, "Content-Type": "application/json", "Content-Encoding": "gzip"}
    for path in ("/v1/actions", "/v1/chat/completions"):
        assert server.send("POST", path, bomb, headers)[0] == 415


def test_pictures_of_a_hundred_megapixels(server: Victim) -> None:
    uri = "data:image/png;base64," + base64.b64encode(huge_picture()).decode()
    assert server.talk({"type": "image_url", "image_url": {"url": uri}})[0] == 413
    message = {"__image__": True, "format": "png", "data": huge_picture(), "shape": [10_000, 10_000, 1]}
    body = msgpack.packb({"embodiment": "panda", "instruction": "x", "state": [0.0] * 8, "images": {"front": message}})
    assert server.send("POST", "/v1/actions", body, PACKED)[0] == 400


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"[" * 100_000, "application/json", 400),
        (b'{"a":' * 100_000, "application/json", 400),
        (b"[" + b"0," * 500_000 + b"0]", "application/json", 422),
        (b"[" + b"{}," * 340_000 + b"0]", "application/json", 422),
        (b"\x91" * 100_000, "application/msgpack", 400),
        (b"\xdd\xff\xff\xff\xff", "application/msgpack", 400),
        (b"\xdf\xff\xff\xff\xff", "application/msgpack", 400),
        (b"\xc6\xff\xff\xff\xff", "application/msgpack", 400),
    ],
)
def test_bodies_that_unfold(server: Victim, body: bytes, kind: str, status: int) -> None:
    assert server.send("POST", "/v1/actions", body, {**GOOD, "Content-Type": kind})[0] == status


# ----------------------------------------------------------------------------------------------- contents of requests


class Evil:
    """What unpickling would run."""

    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


def test_pickles(server: Victim, capfd: pytest.CaptureFixture[str]) -> None:
    payload = pickle.dumps(Evil())
    for kind in ("application/x-pickle", "application/octet-stream", "application/x-python-serialize"):
        assert server.send("POST", "/v1/actions", payload, {**GOOD, "Content-Type": kind})[0] == 415
    assert server.send("POST", "/v1/actions", payload, PACKED)[0] == 400
    objects = {b"__ndarray__": True, b"data": payload, b"dtype": "|O", b"shape": [1]}
    for state in (objects, msgpack.ExtType(5, payload), {b"nd": True, b"type": b"O", b"data": payload}):
        body = msgpack.packb({"embodiment": "panda", "instruction": "x", "state": state, "images": {}})
        assert server.send("POST", "/v1/actions", body, PACKED)[0] in (400, 422)
    text = base64.b64encode(payload).decode()
    assert server.talk({"type": "image_embeds", "image_embeds": text})[0] == 400
    assert "unpickled" not in capfd.readouterr().out


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_states_that_are_no_numbers(server: Victim, bad: float) -> None:
    assert server.act({"state": [bad] * 8})[0] == 400
    body = pack({"embodiment": "panda", "instruction": "x", "state": np.full(8, bad), "images": {}})
    assert server.send("POST", "/v1/actions", body, PACKED)[0] == 400


@pytest.mark.parametrize("name", ["unknown", "", "../panda", "panda\x00", "p" * 10_000])
def test_unknown_embodiments(server: Victim, name: str) -> None:
    status, reply = server.act({"embodiment": name})
    assert status in (400, 422)
    assert len(reply["error"]["message"]) < 2000


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/docs/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%252e%252e/etc",
        "/..%5cetc",
        "/x%00",
    ],
)
def test_path_traversal(server: Victim, path: str) -> None:
    status, reply = server.send("GET", path)
    assert (status, reply["error"]["code"]) == (400, 400)


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/sleep", "/etc/passwd", "/static/docs.html", "/metrics/x"])
def test_places_that_are_not_there(server: Victim, path: str) -> None:
    assert server.send("GET", path)[0] == 404


def test_addresses_of_the_inside_are_not_fetched(server: Victim) -> None:
    with inner_service() as (port, asked):
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]"):
            for place in ("/secret", "/away"):
                status, reply = server.talk({"type": "image_url", "image_url": {"url": f"http://{host}:{port}{place}"}})
                assert (status, reply["error"]["param"]) == (400, "image_url")
        for url in ("http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "FiLe:///etc/passwd"):
            assert server.talk({"type": "image_url", "image_url": {"url": url}})[0] == 400
        escaped = f'{{"messages": [{{"content": [{{"image\\u005furl": {{"url": "http://127.0.0.1:{port}/"}}}}]}}]}}'
        headers = {**GOOD, "Content-Type": "application/json"}
        assert server.send("POST", "/v1/chat/completions", escaped.encode(), headers)[0] == 400
        wide = escaped.encode("utf-16")
        assert server.send("POST", "/v1/chat/completions", wide, headers)[0] == 400
        assert asked == []


def test_other_sites_pages(server: Victim) -> None:
    assert server.act(Origin="https://evil.example")[0] == 403
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{server.port}/blm", additional_headers=GOOD, origin="https://evil.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x",
        b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_requests_that_are_none(server: Victim, request_bytes: bytes) -> None:
    connection = server.raw(request_bytes)
    connection.shutdown(socket.SHUT_WR)
    assert rest(connection).startswith(b"HTTP/1.1 400")


# ------------------------------------------------------------------------------------------------- slow and half open


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"", b""),
        (b"G", b""),
        (b"GET /health HTTP/1.1\r\n", b"X: y\r\n"),
        (b"GET /blm HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", b"X: y\r\n"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /", b"a"),
        (f"POST /v1/actions HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: 1000\r\n\r\n".encode(), b" "),
        (
            f"POST /v1/actions HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n".encode(),
            b"1\r\n \r\n",
        ),
    ],
)
def test_slow_loris(server: Victim, first: bytes, piece: bytes) -> None:
    crowd = [server.raw(first) for _ in range(20)]
    assert server.act()[0] == 200, "meanwhile others are served"
    assert dribble(server.raw(first), piece) < LATE_S
    for connection in crowd:
        rest(connection)


def test_slow_headers_and_bodies_hear_why(server: Victim) -> None:
    assert rest(server.raw(b"GET /health HTTP/1.1\r\nHost")).startswith(b"HTTP/1.1 408")
    body = f"POST /v1/actions HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: 9\r\n\r\n[".encode()
    assert b'"code": 408' in rest(server.raw(body))


def test_websockets_that_say_nothing(server: Victim) -> None:
    began = time.monotonic()
    with connect(f"ws://127.0.0.1:{server.port}/blm", additional_headers=GOOD) as client:
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    assert LIMITS.idle_s * 0.9 < time.monotonic() - began < LATE_S
    assert (0, "idle") in server.refusals


def test_websockets_whose_client_is_gone_or_stuck_in_a_message(server: Victim) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/openpi", additional_headers=GOOD) as client:
        client.recv(timeout=5)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
    stuck = server.upgrade("/openpi")
    stuck.sendall(frame(2**19))  # half a megabyte that is announced
    assert dribble(stuck, b"x") < LATE_S, "neither the message nor the goodbye may take for ever"
    assert server.empties()
