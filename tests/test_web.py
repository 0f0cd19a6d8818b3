"""The web application of a replica, over real sockets, with a real small policy and no vLLM."""

import json
import re
import threading
from typing import Any

import httpx
import numpy as np
import pytest
from small_policy import SpoiltPolicy, write_small_policy
from small_policy_server import observation
from small_web import PLAIN, Web, ask, eventually, serving_web, small_chat
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from blm.actors.remote.references import open_remote
from blm.actors.sim.policies import RandomPolicy
from blm.model.wire import pack, unpack
from blm.serve.batches.service import BatchConfig
from blm.serve.config import ServeConfig
from blm.serve.web.codec import encode_picture

PARTS = {"queue_ms", "preprocess_ms", "mllm_ms", "denoise_ms", "total_ms", "batch"}


@pytest.fixture(scope="module")
def policy(tiny_mllm: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """(an untrained policy for the Panda that looks through `front`, its description)."""
    from blm.model.checkpoint_files import read_folder
    from blm.model.description import describe_checkpoint
    from blm.model.predictor import load_policy_for

    folder = write_small_policy(tmp_path_factory.mktemp("web") / "model", tiny_mllm)
    return load_policy_for(folder), describe_checkpoint(read_folder(folder), 8)


# ------------------------------------------------------------------------------------------------------------- actions


def test_json_msgpack_and_every_protocol_give_the_policys_own_chunks(policy: tuple[Any, Any]) -> None:
    acting, description = policy
    one = observation(1, cameras=("front",))
    own = acting.infer_batch([one], [7])[0].actions
    fields = {"embodiment": "panda", "instruction": one.instruction, "seed": 7}
    packed = {"Content-Type": "application/msgpack"}
    with serving_web(acting, description) as web:
        uri = {"front": encode_picture(one.images["front"])}
        plain = ask(web, {**fields, "state": one.state.tolist(), "images": uri})
        raw = ask(web, pack({**fields, "state": one.state, "images": one.images}), **packed)
        mixed = ask(web, pack({**fields, "state": one.state, "images": uri}), **packed, Accept="application/json")
        for scheme in ("blm", "openpi", "vla-eval"):
            client = open_remote(f"{scheme}://127.0.0.1:{web.port}/")
            (chunk,) = client.infer_batch([one], [7])
            assert np.array_equal(chunk.actions, own[: len(chunk.actions)])
            client.close()
    assert (plain.status_code, raw.status_code, mixed.status_code) == (200, 200, 200)
    assert (raw.headers["content-type"], mixed.headers["content-type"]) == ("application/msgpack", "application/json")
    for reply in (plain.json(), unpack(raw.content), mixed.json()):
        assert np.array_equal(np.asarray(reply["actions"], np.float32), own)
        assert (reply["control_hz"], len(reply["names"]), reply["model"]) == (20, 8, "BLM")
        assert set(reply["timing"]) == PARTS
        timing = reply["timing"]
        assert timing["total_ms"] >= timing["preprocess_ms"] + timing["mllm_ms"] + timing["denoise_ms"] > 0
        assert min(timing["mllm_ms"], timing["denoise_ms"]) > 0


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"embodiment": "pandaa"}, 400, "did you mean 'panda'"),
        ({"embodiment": None}, 400, "which robot"),
        ({"embodiment": "x" * 1000}, 400, "which robot"),
        ({"state": [0.0]}, 400, "needs 8 numbers"),
        ({"state": "many"}, 422, "state"),
        ({"state": [float("nan")] * 8}, 400, "NaN"),
        ({"instruction": " "}, 400, "instruction is empty"),
        ({"colour": 1}, 422, "colour"),
        ({"seed": -1}, 422, "seed"),
        ({"model": "OTHER"}, 404, "OTHER"),
        ({"contract": {"chunk": 99}}, 409, "this server has 16"),
        ({"images": {"front": "nonsense!"}}, 200, ""),  # this policy does not look, so nobody decodes it
    ],
)
def test_a_bad_request_gets_one_clear_error(web: Web, changes: dict[str, Any], status: int, says: str) -> None:
    reply = ask(web, {**PLAIN, **changes})
    assert reply.status_code == status
    if status != 200:
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert says in error["message"]
        assert "\n" not in error["message"]


@pytest.fixture(scope="module")
def web() -> Any:
    """Random actions for two robots, and a small conversation."""
    extra = Route("/extra", lambda request: PlainTextResponse("more"))
    with serving_web(chat=small_chat(), extras=[extra]) as running:
        yield running


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{never closed", "application/json", 400),
        (b"\x93", "application/msgpack", 400),
        (pack([1]), "application/msgpack", 400),
        (pack({**PLAIN, "colour": 1}), "application/msgpack", 422),
        (pack({**PLAIN, "seed": "x"}), "application/msgpack", 400),
        (pack({**PLAIN, "images": []}), "application/msgpack", 400),
        (b"<xml/>", "text/xml", 415),
        (b"{}", "application/x-www-form-urlencoded", 415),
        (b"\x80\x04\x95.", "application/octet-stream", 415),
    ],
)
def test_a_body_that_is_none_is_refused(web: Web, body: bytes, kind: str, status: int) -> None:
    assert ask(web, body, **{"Content-Type": kind}).status_code == status


def test_what_the_policy_raises_is_told_without_its_inside() -> None:
    with serving_web(SpoiltPolicy("error", "spoil this")) as web:
        reply = ask(web, {**PLAIN, "instruction": "spoil this"})
        assert reply.status_code == 500
        assert reply.json()["error"]["message"] == "the policy failed (PolicyError)"
        assert ask(web, PLAIN).status_code == 200


def test_who_would_wait_too_long_is_told_when_to_come_again() -> None:
    gate = threading.Event()

    class Slow(RandomPolicy):
        def infer_batch(self, *given: Any) -> Any:
            gate.wait(10)
            return super().infer_batch(*given)

    config = ServeConfig(batches=BatchConfig(max_batch=1, max_waiting=1))
    with serving_web(Slow(), config=config) as web:
        service, replies = web.service, list[int]()
        assert service is not None
        threads = [threading.Thread(target=lambda: replies.append(ask(web, PLAIN).status_code)) for _ in range(2)]
        for thread, done in zip(threads, (lambda: service.passes == 1, lambda: service.waiting() == 1), strict=True):
            thread.start()
            eventually(done)  # the first is computed, the second waits
        busy = ask(web, PLAIN)
        gate.set()
        for thread in threads:
            thread.join(10)
    assert busy.status_code == 503
    assert int(busy.headers["Retry-After"]) >= 1
    assert replies == [200, 200]


# ------------------------------------------------------------------------------------------------- what else is there


def test_of_vllms_places_those_on_the_list_are_let_through_and_no_other(web: Web) -> None:
    whole = httpx.post(f"{web.url}/v1/completions", json={"prompt": "a b"})
    assert whole.json() == {"choices": [{"text": "a b"}]}
    streamed = httpx.post(f"{web.url}/v1/completions", json={"prompt": "a b", "stream": True})
    assert streamed.text == "data: a\n\ndata: b\n\n"
    assert httpx.get(f"{web.url}/v1/models").json() == {"data": [{"id": "BLM"}]}
    assert httpx.get(f"{web.url}/extra").text == "more"
    for method, place, status in (
        ("POST", "/v1/load_lora_adapter", 404),
        ("POST", "/sleep", 404),
        ("GET", "/v1/models/OTHER", 404),
        ("GET", "/v1/models/BLM", 200),
        ("GET", "/", 307),
        ("POST", "/v1/completions/../load_lora_adapter", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/chat/completions", 404),  # on the list, but not in this small application
    ):
        reply = httpx.request(method, web.url + place)
        assert reply.status_code == status, place


def test_health_tells_life_from_readiness(web: Web) -> None:
    facts = {"status": "ok", "model": "BLM", "chat": True, "actions": True, "role": "small"}
    assert httpx.get(f"{web.url}/health").json() == facts
    assert httpx.get(f"{web.url}/healthz").text == "OK\n"
    web.engine.dead = True
    for place, status in (("/health", 503), ("/healthz", 503), ("/livez", 200)):
        reply = httpx.get(web.url + place)
        assert reply.status_code == status
        assert "secret" not in reply.text
    web.engine.dead = False
    assert httpx.get(f"{web.url}/health").status_code == 200


def test_half_a_server_says_which_half_is_missing() -> None:
    with serving_web(chat=small_chat(), acts=False) as web:
        assert "conversation only" in ask(web, PLAIN).json()["error"]["message"]
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{web.port}/blm")
        assert httpx.get(f"{web.url}/v1/contract").status_code == 404
    with serving_web() as web:
        reply = httpx.post(f"{web.url}/v1/chat/completions", json={})
        assert (reply.status_code, "actions only" in reply.json()["error"]["message"]) == (404, True)
        assert [card["id"] for card in httpx.get(f"{web.url}/v1/models").json()["data"]] == ["BLM"]


def test_the_description_has_every_place_and_the_page_loads_nothing_foreign(web: Web) -> None:
    api = httpx.get(f"{web.url}/openapi.json").json()
    places = {
        "/v1/actions",
        "/v1/contract",
        "/health",
        "/healthz",
        "/livez",
        "/config",
        "/v1/completions",
        "/v1/models",
    }
    assert set(api["paths"]) == places
    schemas = api["components"]["schemas"]
    assert {"Question", "ActionReply", "ErrorReply"} <= set(schemas)
    assert set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(api))) <= set(schemas)
    page = httpx.get(f"{web.url}/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page.text)


def test_the_contract_can_be_stated_back_whole(web: Web) -> None:
    contract = httpx.get(f"{web.url}/v1/contract").json()
    robot = contract["robots"]["panda"]
    assert robot["state_units"][-2:] == ["rad", "opening_0_closed_1_open"]
    stated = {name: contract[name] for name in ("cameras", "image_px", "chunk", "identity", "normalisation")}
    names = ("state", "state_units", "actions", "action_units", "control_hz")
    stated |= {"embodiment": "panda", **{name: robot[name] for name in names}}
    assert ask(web, {**PLAIN, "contract": stated}).status_code == 200
    reply = ask(web, {**PLAIN, "contract": stated | {"control_hz": 10}})
    assert (reply.status_code, "run your loop" in reply.json()["error"]["message"]) == (409, True)


def test_the_batches_are_set_from_this_machine_unless_the_server_is_open_to_others() -> None:
    for host, status in (("127.0.0.1", 200), ("0.0.0.0", 422)):
        with serving_web(config=ServeConfig(host=host)) as web:
            assert httpx.get(f"{web.url}/config?max_batch_size=4").status_code == status
            assert httpx.get(f"{web.url}/config").json()["config"]["max_batch_size"] == (4 if status == 200 else 16)


def test_the_small_engine_is_an_engine(web: Web) -> None:
    one = observation(2)
    chunks, _ = web.run(lambda: web.engine.compute([one], [3]))
    assert np.array_equal(chunks[0].actions, RandomPolicy().infer_batch([one], [3])[0].actions)
