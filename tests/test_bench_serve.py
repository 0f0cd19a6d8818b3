"""`blm bench serve`: it asks what it says and counts right. How fast anything is, no test asks."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvicorn
from small_policy_server import NotedPolicy, description_of_random, serving
from small_server import Server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from blm.cluster.ports import free_port
from blm.model.checkpoint import read_contract
from blm.model.description import PolicyDescription
from blm.model.embodiments import EMBODIMENTS
from blm.model.errors import UserError
from blm.pipelines.benchmarks.serve import GOALS, chosen, compared, goals
from blm.pipelines.benchmarks.serve_actions import summary
from blm.pipelines.benchmarks.serve_chat import BARE, OURS, measure_chat
from blm.pipelines.benchmarks.serve_checkpoint import make_checkpoint
from blm.pipelines.benchmarks.serve_clients import Clients, clients_at_work
from blm.pipelines.benchmarks.serve_people import question, talk
from blm.pipelines.benchmarks.serve_processes import Memory, flags, memory_of, started
from blm.pipelines.benchmarks.serve_robots import act
from blm.pipelines.cli import main
from blm.serve.batches.answers import InThread
from blm.serve.batches.service import BatchingService
from blm.serve.checkpoint import check_folder
from blm.serve.client_lines import ServerError
from blm.serve.config import ServeConfig
from blm.serve.web.web import build_web

WAIT_S = 0.05
"""The little chat server thinks for so long before its first word."""


def chat_app(word: str, *, full_from: int = 10**9) -> Starlette:
    """Streams as many words as it is asked for, in OpenAI's form; refuses from the n-th request on."""
    served = 0

    async def answer(request: Request) -> Response:
        nonlocal served
        served += 1
        if served > full_from:
            return JSONResponse({"error": {"message": "too many requests"}}, status_code=503)
        body = await request.json()
        assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")

        async def stream() -> AsyncIterator[str]:
            yield event(delta={"role": "assistant", "content": ""})
            await asyncio.sleep(WAIT_S)
            for _ in range(body["max_tokens"]):
                yield event(delta={"content": word})
            yield "data: " + json.dumps({"choices": [], "usage": {"completion_tokens": body["max_tokens"]}}) + "\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])


def event(delta: dict[str, str]) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}) + "\n\n"


@contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """Its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class Here(Clients):
    """The clients' work in this process."""

    def __init__(self) -> None:
        """Without processes."""

    def talk(self, url: str, **wanted: Any) -> dict[str, Any]:
        return talk({"url": url, **wanted})


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("serve_chat.PAUSE_S", "serve_actions.PAUSE_S", "serve_actions.LEAD_S"):
        monkeypatch.setattr(f"blm.pipelines.benchmarks.{name}", 0.05)
    monkeypatch.setattr("blm.pipelines.benchmarks.serve_chat.ALONE", 2)
    monkeypatch.setattr("blm.pipelines.benchmarks.serve_chat.TOGETHER", 8)


class TestPeople:
    def test_the_time_to_the_first_text_leaves_out_the_empty_greeting_and_tokens_are_those_of_the_usage(self) -> None:
        with running(chat_app("word ")) as url:
            found = talk({"url": url, "streams": 3, "conversations": 6, "tokens": 5, "image_px": 28, "first": 0})
        held = found["conversations"]
        assert [one["text"] for one in held] == ["word " * 5] * 6
        assert {one["tokens"] for one in held} == {5}
        assert all(1e3 * WAIT_S * 0.9 <= one["ttft_ms"] <= one["total_ms"] for one in held)
        assert found["seconds"] >= 2 * WAIT_S * 0.9  # two each, one behind the other

    def test_each_picture_is_new_and_the_same_on_both_sides(self) -> None:
        asked = [question(number, 28, 5) for number in (0, 1, 0)]
        assert asked[0] == asked[2] != asked[1]

    def test_a_refusal_is_an_error_and_no_answer(self) -> None:
        with running(chat_app("word ", full_from=1)) as url, pytest.raises(RuntimeError, match=r"status 503.*too many"):
            talk({"url": url, "streams": 1, "conversations": 2, "tokens": 5, "image_px": 28, "first": 0})

    @pytest.mark.usefixtures("quickly")
    def test_answers_that_differ_between_the_sides_are_counted(self) -> None:
        with running(chat_app("a")) as ours, running(chat_app("a")) as same, running(chat_app("b")) as other:
            alike = measure_chat({OURS: ours, BARE: same}, Here(), 1, 28)
            apart = measure_chat({OURS: ours, BARE: other}, Here(), 1, 28)
        assert alike["same_answers"] == alike["answers"] > 0
        assert apart["same_answers"] == 0
        one = alike["rounds"]
        assert alike["ttft_ratio"] == pytest.approx(one[OURS]["ttft_ms"][0] / one[BARE]["ttft_ms"][0], abs=0.002)


class TestRobots:
    def test_robots_of_all_kinds_ask_at_once_and_every_answer_is_counted(self) -> None:
        policy = NotedPolicy()
        with serving(policy) as port:
            found = act({"url": f"http://127.0.0.1:{port}", "clients": 3, "seconds": 0.3, "protocol": "blm"})
        asked = [one for observations, _, _ in policy.asked for one in observations]
        assert {one.embodiment for one in asked} == {"panda", "xarm6"}
        assert len(asked) == len(found["wall_ms"]) + 3 * 3  # the first of each are not counted
        assert len(found["timing"]) == len(found["wall_ms"])
        assert all(timing["total_ms"] <= wall for wall, timing in zip(found["wall_ms"], found["timing"], strict=True))

    def test_one_that_is_refused_stops_the_others_with_its_own_error(self) -> None:
        with running(chat_app("word ")) as url, pytest.raises(ServerError, match=r"40[34]"):
            act({"url": url, "clients": 2, "seconds": 0.1, "protocol": "json"})

    def test_percentiles_rates_and_parts_are_of_all_turns_together(self) -> None:
        parts = {"queue_ms": 1.0, "preprocess_ms": 2.0, "mllm_ms": 3.0, "denoise_ms": 4.0, "total_ms": 15.0, "batch": 2}
        turns = [
            {"wall_ms": [12.0] * 50, "timing": [parts] * 50, "seconds": 1.0},
            {"wall_ms": [112.0] * 50, "timing": [{**parts, "batch": 4}] * 50, "seconds": 3.0},
        ]
        row = summary(turns)
        assert (row["answers"], row["per_s"], row["batch"]) == (100, 25.0, 3.0)
        assert (row["p50_ms"], row["p95_ms"]) == (62.0, 112.0)
        assert (row["mllm_ms"], row["other_ms"], row["wire_ms"]) == (3.0, 5.0, 47.0)


class TestProcesses:
    def test_options_of_an_engine_become_words(self) -> None:
        options = {
            "max_model_len": 512,
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "limit_mm_per_prompt": {"image": 8},
            "quantization": None,
        }
        assert flags(options) == [
            *("--max-model-len", "512", "--enforce-eager", "--no-enable-prefix-caching"),
            *("--limit-mm-per-prompt", '{"image": 8}'),
        ]

    def test_memory_is_that_of_the_whole_tree_of_processes(self) -> None:
        parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
        child = "import sys; held = bytearray(b'1') * (100 * 2**20); print('held', flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", parent, child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            memory = memory_of(process.pid)
            process.communicate()
        assert 100 < memory.total_mb < 200
        assert memory.model_mb == memory.total_mb
        assert sum(memory.processes.values()) == pytest.approx(memory.model_mb, abs=1)

    def test_a_server_that_does_not_start_says_why(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", "raise SystemExit('error: the weights are gone')"]
        with pytest.raises(UserError, match=r"did not start.*the weights are gone"):
            started(command, free_port(), tmp_path / "log", {}).__enter__()

    def test_with_the_block_everything_ends_that_a_server_has_started(self, tmp_path: Path) -> None:
        script = (
            "import http.server, subprocess, sys\n"
            "subprocess.Popen(['sleep', '300'])\n"
            "class Health(http.server.BaseHTTPRequestHandler):\n"
            "    def do_GET(self): self.send_response(200); self.end_headers()\n"
            "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Health).serve_forever()\n"
        )
        port = free_port()
        with started([sys.executable, "-c", script, str(port)], port, tmp_path / "log", {}) as served:
            below = psutil.Process(served.process.pid).children()
            assert len(below) == 1
        assert served.process.returncode is not None
        assert not psutil.wait_procs(below, timeout=10)[1]


def test_the_checkpoint_it_makes_can_be_served_and_knows_all_robots(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "tiny", "cpu")
    check_folder(folder, with_policy=True)
    assert set(read_contract(folder).embodiments) == set(EMBODIMENTS)


def test_what_cannot_be_measured_is_refused() -> None:
    assert chosen("", None) == ["chat", "actions", "together", "memory"]
    assert chosen("", "http://there:8000") == ["chat", "actions", "together"]
    assert chosen("together, chat", None) == ["chat", "together"]
    with pytest.raises(UserError, match="'speed' is none of chat"):
        chosen("speed", None)
    with pytest.raises(UserError, match="leave out --url"):
        chosen("memory", "http://there:8000")


def test_goals_are_judged_by_the_figures_that_were_taken(capsys: pytest.CaptureFixture[str]) -> None:
    results = {"actions": {"rate_8_to_1": 3.9, "p95_8_to_1": 2.0, "p50_ms": 36.0}, "memory": {"ratio": 1.05}}
    found = goals(results, "cpu")
    assert {name: one["met"] for name, one in found.items()} == {
        "actions": False,
        "actions, p95": True,
        "memory": True,
    }
    assert capsys.readouterr().out.count("MISSED") == 1
    assert not goals(results, "cuda")["actions, p50"]["met"]
    assert set(GOALS) > set(found)


def test_memory_is_compared_without_what_all_have_alike(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"unified": (2000.0, 1100.0), "chat alone": (1900.0, 1000.0), "two deployments": (2500.0, 1600.0)}
    found = compared({name: Memory(total_mb=all_, model_mb=m, processes={}) for name, (all_, m) in sizes.items()})
    assert (found["ratio"], found["ratio_with_ray"], found["ratio_two_deployments"]) == (1.1, 1.053, 1.6)
    assert "two deployments" in capsys.readouterr().out


class Serving:
    """An engine that talks and acts: the little chat server, and random actions."""

    def __init__(self) -> None:
        self.description: PolicyDescription | None = description_of_random()
        self.chat: ASGIApp | None = chat_app("word ")
        self.facts: Mapping[str, Any] = {"role": "unified"}
        self.compute = InThread(NotedPolicy())

    async def check(self) -> None:
        """It is well."""

    async def close(self) -> None:
        """It holds nothing."""


@pytest.mark.usefixtures("quickly")
def test_a_server_that_runs_already_is_measured_in_all_but_memory(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Serving()
    service = BatchingService(engine.compute, description_of_random())
    with running(build_web(engine, service, ServeConfig())) as url:
        assert main(["bench", "serve", "--url", url, "--seconds", "0.2", "--rounds", "1"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["bench"], result["policy"]["robots"]) == ("serve", ["panda", "xarm6"])
    rows = result["actions"]["robots"]
    assert set(rows) == {"1", "2", "4", "8", "1, JSON"}
    assert result["actions"]["rate_8_to_1"] == pytest.approx(rows["8"]["per_s"] / rows["1"]["per_s"], abs=0.01)
    assert set(result["together"]["robots"]) == {"nobody talks", "eight talk"}
    chat = result["chat"]["sides"][OURS]
    assert chat["ttft_ms"] >= 1e3 * WAIT_S * 0.9
    assert set(result["goals"]) == {"actions", "actions, p95", "together"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("quickly")
def test_the_whole_server_is_measured(
    live_server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blm.pipelines.benchmarks.serve_chat.TOKENS", 8)
    assert main(["bench", "serve", "--url", live_server.url, "--seconds", "0.5", "--rounds", "1"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["actions"]["robots"]["8"]["batch"] > 1
    assert all(result["actions"]["robots"]["1"][part] > 0 for part in ("mllm_ms", "denoise_ms", "wire_ms"))
    assert result["chat"]["sides"][OURS]["tokens_per_s_8"] > 0


def test_an_address_where_nobody_answers_is_told_in_one_line() -> None:
    with clients_at_work() as clients, pytest.raises(UserError, match="did not answer as it must"):
        clients.talk(f"http://127.0.0.1:{free_port()}", streams=1, conversations=1, tokens=1, image_px=28, first=0)
