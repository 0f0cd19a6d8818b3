"""The engine of the running server: one model for conversation and actions."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_server import MESSAGES, STATE, Server, action_request, picture

from blm.model.predictor import BlmPolicy
from blm.model.types import Observation

pytestmark = [pytest.mark.ray, pytest.mark.slow]
QUESTION: dict[str, Any] = {"model": "BLM", "messages": MESSAGES, "temperature": 0, "max_tokens": 24}


def answer(server: Server) -> str:
    """What it says to the question, greedily."""
    status, reply = server.ask("/v1/chat/completions", QUESTION)
    assert status == 200, reply
    return str(reply["choices"][0]["message"]["content"])


def test_the_served_policy_answers_like_the_checkpoint_on_one_shared_model(
    live_server: Server, live_model: Path
) -> None:
    status, health = live_server.ask("/health")
    assert status == 200
    assert (health["role"], health["sharing"]) == ("unified", "one")
    status, reply = live_server.ask("/v1/actions", action_request(seed=5))
    assert status == 200, reply
    seen = Observation(
        images={"front": picture(), "side": picture(seed=1)},
        state=np.asarray(STATE, dtype=np.float32),
        instruction="push the cube",
        embodiment="panda",
    )
    expected = BlmPolicy.load(live_model).infer_batch([seen], [5])[0].actions
    assert np.abs(np.asarray(reply["actions"]) - expected).max() < 0.05 * expected.std()
    parts = [reply["timing"][name] for name in ("preprocess_ms", "mllm_ms", "denoise_ms")]
    assert min(parts) > 0
    assert sum(parts) <= reply["timing"]["total_ms"]


def test_conversations_and_actions_at_the_same_time_do_not_change_each_other(live_server: Server) -> None:
    said, acted = answer(live_server), live_server.ask("/v1/actions", action_request())[1]["actions"]
    with ThreadPoolExecutor(8) as clients:
        talks = [clients.submit(answer, live_server) for _ in range(4)]
        acts = [clients.submit(live_server.ask, "/v1/actions", action_request()) for _ in range(8)]
        assert {talk.result() for talk in talks} == {said}
        for act in acts:
            status, reply = act.result()
            assert status == 200
            assert np.abs(np.asarray(reply["actions"]) - np.asarray(acted)).max() < 1e-3
