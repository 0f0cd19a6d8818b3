"""What a server counts and logs: latency split, refusals, sessions; one page for all replicas; one line a request."""

import asyncio
import importlib.util
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from small_metrics import samples
from small_policy_server import description_of_random, observation
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from blm.actors.sim.policies import RandomPolicy
from blm.model.types import ComputeTiming
from blm.serve.batches.service import BatchConfig, BatchingService
from blm.serve.observability import logs
from blm.serve.observability.metrics import MOST_REASONS, Metrics
from blm.serve.observability.metrics_page import Family, families, gather, metrics_routes, page
from blm.serve.observability.observe import observe

ROOT = Path(__file__).parent.parent
GRAFANA = ROOT / "cluster/grafana"
TIMING = SimpleNamespace(queue_ms=4.0, preprocess_ms=8.0, mllm_ms=30.0, denoise_ms=20.0, total_ms=64.0)


def read(metrics: Metrics, name: str, **labels: str) -> float:
    """One sample of one replica."""
    wanted = sorted({**labels, "replica": metrics.replica, "role": metrics.role}.items())
    return samples(page([families(metrics)]))[(name, *(f"{key}={value}" for key, value in wanted))]


# ------------------------------------------------------------------------------------------------------------- counting


def test_an_answer_is_counted_with_where_its_time_went() -> None:
    metrics = Metrics()
    metrics.answered(TIMING, robot="panda", protocol="blm", actions=16)
    metrics.answered(TIMING, robot="xarm6", protocol="json", actions=16)
    assert read(metrics, "blm_actions_answered_total", robot="panda", protocol="blm") == 1
    assert read(metrics, "blm_actions_given_total", robot="xarm6") == 16
    assert read(metrics, "blm_action_seconds_count", part="total") == 2
    assert read(metrics, "blm_action_seconds_sum", part="mllm") == pytest.approx(0.060)
    assert read(metrics, "blm_action_seconds_bucket", part="queue", le="0.005") == 2
    assert read(metrics, "blm_action_seconds_bucket", part="total", le="0.05") == 0


def test_a_served_policy_counts_its_passes_queue_and_answers() -> None:
    metrics = Metrics()

    async def compute(observations: Any, seeds: Any, prefixes: Any = None) -> Any:
        return RandomPolicy().infer_batch(observations, seeds), ComputeTiming(preprocess_ms=1, mllm_ms=2, denoise_ms=3)

    async def ask() -> None:
        service = BatchingService(compute, description_of_random(), BatchConfig(wait_ms=0), metrics=metrics)
        with service.client("blm"):
            assert read(metrics, "blm_sessions_open", protocol="blm") == 1
            await service.infer([observation(0), observation(1)], [0, 1], protocol="blm")
        assert read(metrics, "blm_queue_observations") == 0

    asyncio.run(ask())
    assert read(metrics, "blm_batch_observations_sum") == 2
    assert read(metrics, "blm_batch_observations_count") == 1
    assert read(metrics, "blm_actions_answered_total", robot="panda", protocol="blm") == 2
    assert read(metrics, "blm_action_seconds_sum", part="denoise") == pytest.approx(0.006)
    assert read(metrics, "blm_sessions_open", protocol="blm") == 0
    assert read(metrics, "blm_sessions_total", protocol="blm") == 1


def test_what_clients_send_never_grows_the_labels() -> None:
    metrics = Metrics()
    metrics.refused(401, "no key")
    metrics.refused(400, "<script>")
    for number in range(2 * MOST_REASONS):
        metrics.refused(429, f"rate {'a' * (number % 30)}{'b' * (number // 30)}")
    found = [key for key in samples(page([families(metrics)])) if key[0] == "blm_refused_total"]
    assert len(found) <= MOST_REASONS + 3
    assert read(metrics, "blm_refused_total", status="401", reason="no_key") == 1
    assert read(metrics, "blm_refused_total", status="400", reason="other") == 1


# ---------------------------------------------------------------------------------------------------- the page /metrics


def test_the_page_of_any_replica_shows_all_of_them_and_survives_the_loss_of_the_others() -> None:
    mine, theirs = Metrics(replica="model-a"), Metrics(replica="control-b", role="control")
    theirs.computed(4)

    async def both() -> list[list[Family]]:
        return [families(mine), families(theirs)]

    async def nobody() -> list[list[Family]]:
        raise TimeoutError("they are gone")

    app = Starlette(routes=metrics_routes(mine, both))
    reply = TestClient(app).get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(reply.content)
    assert found[("blm_replica_up", "replica=model-a", "role=unified")] == 1
    assert found[("blm_replica_up", "replica=control-b", "role=control")] == 1
    assert found[("blm_batch_observations_sum", "replica=control-b", "role=control")] == 4
    assert reply.text.count("# TYPE blm_replica_up gauge") == 1
    assert [one[0].samples[0][1] for one in asyncio.run(gather(mine, nobody))] == [families(mine)[0].samples[0][1]]


def test_vllms_numbers_are_on_the_page_and_other_peoples_are_not() -> None:
    from prometheus_client import CollectorRegistry, Counter

    foreign = CollectorRegistry()
    Counter("vllm:generation_tokens", "Tokens.", ["model_name"], registry=foreign).labels("BLM").inc(7)
    Counter("somebody_elses", "Numbers.", registry=foreign).inc()
    text = page([families(Metrics(replica="a"), foreign)])
    name = ("vllm:generation_tokens_total", "model_name=BLM", "replica=a", "role=unified")
    assert samples(text)[name] == 7
    assert b"somebody_elses" not in text


def known_names() -> set[str]:
    """Every sample that a server can show: ours, the process's, and those that vLLM's source declares."""
    metrics = Metrics()
    metrics.answered(TIMING, robot="panda", protocol="blm")
    metrics.refused(503, "full")
    metrics.requested("/health", 200, 0.1)
    with metrics.session("blm"):
        ours = {key[0] for key in samples(page([families(metrics)]))}
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations
    source = (Path(spec.submodule_search_locations[0]) / "v1/metrics/loggers.py").read_text()
    theirs = set(re.findall(r'name="(vllm:[a-z_]+)"', source))
    assert len(theirs) > 20
    return ours | theirs | {f"{name}{end}" for name in theirs for end in ("_total", "_bucket", "_sum", "_count")}


def test_the_dashboard_and_the_alerts_name_only_metrics_that_exist() -> None:
    board = json.loads((GRAFANA / "blm.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    expressions += [variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    alerts = yaml.safe_load((GRAFANA / "alerts.yaml").read_text())
    expressions += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    assert len(expressions) > 30
    known = known_names()
    for expression in expressions:
        named = re.findall(r"(?:blm_|vllm:|process_)[a-z_]+", expression)
        assert named, expression
        assert not [name for name in named if name not in known], expression
    ours = {name for name in known if name.startswith("blm_") and not name.endswith(("_bucket", "_sum", "_count"))}
    shown = set(re.findall(r"blm_[a-z_]+", " ".join(expressions)))
    assert ours - shown <= {"blm_model_info", "blm_sessions_total"}, "counted, and shown nowhere"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


# ----------------------------------------------------------------------------------------------------------------- logs


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the server's log says; the logger is left as it was."""
    stream, logger = io.StringIO(), logging.getLogger(logs.LOGGER)
    held, propagate, level = logger.handlers[:], logger.propagate, logger.level
    logs.set_up_logs(logs.LogConfig(), stream=stream, replica="model-a")
    yield stream
    logger.handlers[:], logger.propagate = held, propagate
    logger.setLevel(level)


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    """The lines as maps."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def small_app(metrics: Metrics) -> TestClient:
    """A few routes behind `observe`, with something that gives ids and names of keys as the guard does."""

    async def good(request: Request) -> JSONResponse:
        logs.log("inside", n=1)
        return JSONResponse({"ok": True})

    async def bad(request: Request) -> JSONResponse:
        raise ValueError("broken")

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close(1000)

    inner = Starlette(
        routes=[Route("/v1/actions", good), Route("/health", good), Route("/bad", bad), WebSocketRoute("/blm", echo)]
    )

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {}).update(request_id="id-1", key="robot-7")
        with logs.request_id("id-1"):
            await inner(scope, receive, send)

    return TestClient(observe(guarded, metrics), raise_server_exceptions=False)


def test_every_request_is_one_line_with_its_id_and_is_counted(lines: io.StringIO) -> None:
    metrics = Metrics()
    client = small_app(metrics)
    assert client.get("/v1/actions?key=secret").status_code == 200
    assert client.get("/bad").status_code == 500
    assert client.get("/health").status_code == 200
    for number in range(5):
        client.get(f"/invented/{number}")
    with client.websocket_connect("/blm") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "hello"
    inside, request, failed, *rest = written(lines)
    assert (inside["event"], inside["request_id"], inside["n"]) == ("inside", "id-1", 1)
    assert request["event"] == "request"
    assert request | {"path": "/v1/actions", "status": 200, "key": "robot-7", "request_id": "id-1"} == request
    assert request["replica"] == "model-a"
    assert request["ms"] >= 0
    assert (failed["level"], failed["status"]) == ("error", 500)
    assert "secret" not in lines.getvalue()
    session = next(line for line in rest if line["event"] == "session")
    assert (session["code"], session["frames_in"], session["frames_out"]) == (1000, 1, 1)
    assert not [line for line in rest if line.get("path") == "/health"], "health is asked all the time"
    assert read(metrics, "blm_requests_total", path="/v1/actions", status="200") == 1
    assert read(metrics, "blm_requests_total", path="other", status="404") == 5
    assert read(metrics, "blm_requests_total", path="other", status="500") == 1
    assert read(metrics, "blm_requests_running") == 0


def test_an_error_is_one_line_of_json_with_its_traceback(lines: io.StringIO) -> None:
    try:
        raise RuntimeError("no\nluck")
    except RuntimeError as error:
        logs.log("policy failed", level=logging.ERROR, error=error, robot="panda")
    (line,) = written(lines)
    assert (
        line | {"event": "policy failed", "level": "error", "error": "RuntimeError: no\nluck", "robot": "panda"} == line
    )
    assert "test_metrics.py" in line["traceback"]


def test_lines_for_people_say_the_same(lines: io.StringIO) -> None:
    stream = io.StringIO()
    logs.set_up_logs(logs.LogConfig(form="text", level="warning"), stream=stream)
    logs.log("quiet")
    logs.log("full", level=logging.WARNING, waiting=9)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} warning full waiting=9\n", stream.getvalue())
