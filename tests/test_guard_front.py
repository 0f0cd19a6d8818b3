"""The guard in what Ray Serve puts before us: Uvicorn as Ray starts it, and HAProxy as Ray configures it."""

import asyncio
import csv
import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn.config
from small_abuse import GOOD, LIMITS, Victim, dribble, frame, rest, victim
from small_guard import small_app
from small_web import eventually
from websockets.sync.client import connect

from blm.cluster.ports import free_ports
from blm.serve.config import ServeConfig
from blm.serve.front import everywhere
from blm.serve.guard import connection as guard_connection
from blm.serve.guard.config import GuardConfig
from blm.serve.guard.guard import guard
from blm.serve.guard.haproxy import haproxy, mend, write_wrapper

LATE_S = 3.0


DOOMED = """
import http.server, os, signal, sys

class Replica(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        os.kill(os.getpid(), signal.SIGKILL)

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Replica).serve_forever()
"""
"""A replica that is killed by the first thing that it is to compute."""


def written_by_ray(folder: Path, *, port: int, stats: int, metrics: int, replica: int, fallback: int = 2) -> Path:
    """HAProxy's configuration for one replica and Ray's proxy behind it, as Ray Serve writes it."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    chosen = everywhere("haproxy", ServeConfig())
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        stats_port=stats,
        metrics_port=metrics,
        metrics_enabled=False,
        has_received_routes=True,
        has_received_servers=True,
        enable_hap_optimization=False,
        retry_on=chosen["RAY_SERVE_HAPROXY_RETRY_ON"],
        retries=int(chosen["RAY_SERVE_HAPROXY_RETRIES"]),
    )
    servers = [ServerConfig(name="replica", host="127.0.0.1", port=replica)]
    backend = BackendConfig(
        name="blm",
        path_prefix="/",
        app_name="blm",
        servers=servers,
        fallback_server=ServerConfig(name="proxy", host="127.0.0.1", port=fallback),
        http_health_check_path="/livez",
    )
    file = folder / "haproxy.cfg"
    HAProxyApi(
        cfg=config, backend_configs={"blm": backend}, config_file_path=str(file)
    )._generate_config_file_internal()
    return file


@contextmanager
def fronted(
    folder: Path, server: Victim, config: GuardConfig, *, replica: int | None = None
) -> Iterator[tuple[Victim, int]]:
    """(the server behind HAProxy, HAProxy's port of statistics), as Ray starts it with our program.

    replica: port of another one; the server then is only what Ray's own proxy would be. Skips the test without HAProxy.
    """
    try:
        haproxy()
    except Exception as error:
        pytest.skip(str(error))
    port, stats, metrics = free_ports(3)
    ports = {"replica": server.port if replica is None else replica, "fallback": server.port}
    file = written_by_ray(folder, port=port, stats=stats, metrics=metrics, **ports)
    program = write_wrapper(folder, config)
    process = subprocess.Popen([program, "-db", "-f", file], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        front = replace(server, port=port)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if front.send("GET", "/livez")[0] == 200:
                    break
            except (OSError, http.client.HTTPException, AssertionError, ValueError):
                time.sleep(0.1)
        assert process.poll() is None, process.stdout and process.stdout.read()
        yield front, stats
    finally:
        process.kill()
        process.wait()


def test_haproxy_as_ray_configures_it_becomes_safe(tmp_path: Path) -> None:
    with victim() as server, fronted(tmp_path, server, LIMITS) as (front, stats):
        assert front.act()[0] == 200
        assert rest(front.raw(b"GET /livez HTTP/1.1\r\nHost")).startswith(b"HTTP/1.1 408")
        assert dribble(front.raw(b"GET /livez HTTP/1.1\r\n"), b"X: y\r\n") < LATE_S
        assert dribble(front.raw(b"POST /v1/actions HTTP/1.1\r\nContent-Length: 99\r\n\r\n"), b" ") < LATE_S
        with connect(f"ws://127.0.0.1:{front.port}/openpi", additional_headers=GOOD) as client:
            assert client.recv(timeout=5)
        assert urllib.request.urlopen(f"http://127.0.0.1:{stats}/stats", timeout=5).status == 200
        own = socket.gethostbyname(socket.gethostname())
        if not own.startswith("127."):
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((own, stats), timeout=5)
        assert front.act()[0] == 200


def in_rotation(stats: int) -> bool:
    """Whether HAProxy sends requests to the replica."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{stats}/stats;csv", timeout=5).read().decode()
    return any(row["svname"] == "replica" and row["status"] == "UP" for row in csv.DictReader(page.splitlines()))


def test_what_the_only_replica_died_on_is_asked_of_who_can_wait_for_the_next(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with victim() as server, fronted(tmp_path, server, LIMITS, replica=port) as (front, stats):
        for _ in range(3):
            eventually(lambda: not in_rotation(stats), 20.0)
            replica = subprocess.Popen([sys.executable, "-c", DOOMED, str(port)], stderr=subprocess.DEVNULL)
            try:
                eventually(lambda: in_rotation(stats), 20.0)
                assert front.act()[0] == 200
                assert replica.wait(10) == -signal.SIGKILL, "the replica had the first try"
            finally:
                replica.kill()
                replica.wait()


def test_a_configuration_is_mended_once(tmp_path: Path) -> None:
    port, stats, metrics = free_ports(3)
    text = written_by_ray(tmp_path, port=port, stats=stats, metrics=metrics, replica=1).read_text()
    mended = mend(text, header_s=10, send_s=60)
    for line in (
        "timeout http-request 10000ms",
        "option http-buffer-request",
        "option forwardfor",
        "http-request del-header x-request-disconnect-disabled",
        f"bind 127.0.0.1:{port} tcp-ut 60000ms",
        f"bind 127.0.0.1:{stats}",
        f"bind 127.0.0.1:{metrics}",
        "server proxy 127.0.0.1:2 check",
        "use-server replica if TRUE",
    ):
        assert mended.count(f"{line}\n") == 1, line
    assert mend(mended, header_s=10, send_s=60) == mended


def test_uvicorn_as_ray_starts_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private.constants import RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH
    from ray.serve._private.http_util import start_asgi_http_server
    from ray.serve._private.utils import call_function_from_import_path
    from ray.serve.config import HTTPOptions

    assert RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH is None
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    monkeypatch.setattr(guard_connection.GuardedConnection, "limits", guard_connection.GuardedConnection.limits)
    config = replace(LIMITS, max_message_bytes=2**25, idle_s=20.0)
    variables = guard_connection.environment(config)
    monkeypatch.setenv(guard_connection.VARIABLE, variables[guard_connection.VARIABLE])
    assert call_function_from_import_path(variables[guard_connection.CALLBACK]) == []
    (port,) = free_ports(1)
    loop = asyncio.new_event_loop()
    app = guard(small_app(), config)
    started = start_asgi_http_server(app, HTTPOptions(host="127.0.0.1", port=port), event_loop=loop)
    task, server = loop.run_until_complete(started)
    thread = threading.Thread(target=loop.run_until_complete, args=(task,))
    thread.start()
    try:
        running = Victim(port, [], server)
        assert rest(running.raw(b"GET / HTTP/1.1\r\nHost")).startswith(b"HTTP/1.1 408")
        assert b" 431 " in rest(running.raw(b"GET / HTTP/1.1\r\nX: " + b"y" * 5000))
        large = 17 * 2**20  # Ray's own limit is 16 MiB
        with connect(f"ws://127.0.0.1:{port}/socket", additional_headers=GOOD, max_size=2**25) as client:
            client.send(bytes(large))
            assert len(client.recv(timeout=10)) == large
        unread = running.upgrade("/socket")
        unread.sendall(frame(large) + bytes(large))
        assert running.empties(), "who takes nothing of what he is sent is given up"
        unread.close()
    finally:
        server.should_exit = True
        thread.join(20)
        loop.close()
    assert not thread.is_alive()
