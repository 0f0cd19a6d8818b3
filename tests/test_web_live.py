"""The web application of the running server: vLLM's places through ours, and our client beside them."""

import json
import re
from typing import Any

import numpy as np
import pytest
from small_server import STATE, Server, action_request, picture

from blm.model.types import Observation
from blm.serve.client import PolicyClient, act

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_our_client_gets_what_plain_http_gets(live_server: Server) -> None:
    seen = Observation(
        images={"front": picture(), "side": picture(seed=1)},
        state=np.asarray(STATE, dtype=np.float32),
        instruction="push the cube",
        embodiment="panda",
    )
    status, plain = live_server.ask("/v1/actions", action_request(seed=3))
    assert status == 200, plain
    with PolicyClient(live_server.url, contract={"embodiment": "panda", "cameras": ["front", "side"]}) as client:
        ((chunk, timing),) = client.infer_timed([seen], [3])
        together = client.infer_batch([seen] * 3, [3, 4, 5])
    np.testing.assert_allclose(chunk.actions, plain["actions"], atol=1e-4)
    np.testing.assert_allclose(act(live_server.url, seen, seed=3).actions, chunk.actions, atol=1e-4)
    np.testing.assert_allclose(together[0].actions, chunk.actions, atol=1e-3)
    assert timing["total_ms"] >= timing["mllm_ms"] + timing["denoise_ms"] > 0


def test_what_is_described_is_let_through_and_nothing_else_is(live_server: Server) -> None:
    _, api = live_server.ask("/openapi.json")
    assert {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/v1/actions"} <= set(api["paths"])
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(api)))
    assert named <= set(api["components"]["schemas"])
    answers: dict[str, Any] = {
        "/tokenize": {"model": "BLM", "prompt": "the cube"},
        "/v1/completions": {"model": "BLM", "prompt": "the cube", "max_tokens": 2},
        "/v1/responses": {"model": "BLM", "input": "Where is the cube?", "max_output_tokens": 8},
    }
    for place, body in answers.items():
        status, reply = live_server.ask(place, body)
        assert status == 200, (place, reply)
    for place in ("/v1/load_lora_adapter", "/sleep", "/v1/embeddings", "/invocations", "/collective_rpc", "/pause"):
        assert live_server.ask(place, {})[0] == 404, place
