"""The whole server in a process of its own (`live_server.py`, which also looks how it ends), asked by real clients."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_server import MESSAGES, STATE, Server, action_request, picture

from blm.model.types import Observation
from blm.serve.web.codec import encode_picture

ROOT = Path(__file__).parent.parent
GOOD = action_request()["images"]


@pytest.fixture(scope="module")
def client(live_server: Server) -> Any:
    """The OpenAI SDK's client."""
    import openai

    return openai.OpenAI(base_url=f"{live_server.url}/v1", api_key="empty", max_retries=0)


@pytest.mark.ray
@pytest.mark.slow
class TestServer:
    """Everything that is asked of one running server."""

    def test_the_console_shows_where_it_is_and_nothing_else(self, live_server: Server) -> None:
        lines = live_server.log.read_text().splitlines()
        assert all(line.startswith(("[serve] ", "  ")) for line in lines), lines
        assert any(line.startswith("  chat:     curl ") for line in lines)

    def test_models_lists_blm(self, client: Any) -> None:
        assert [model.id for model in client.models.list().data] == ["BLM"]

    def test_health_is_ok(self, live_server: Server) -> None:
        status, health = live_server.ask("/health")
        assert status == 200
        assert health == {"status": "ok", "model": "BLM", "chat": True, "actions": True} | {
            "role": "unified",
            "sharing": "one",
        }

    def test_a_picture_and_a_question_get_an_answer(self, client: Any) -> None:
        reply = client.chat.completions.create(model="BLM", messages=MESSAGES, max_tokens=8, temperature=0)
        assert reply.model == "BLM"
        assert 1 <= reply.usage.completion_tokens <= 8
        without = [{"role": "user", "content": "Where is the cube?"}]
        shorter = client.chat.completions.create(model="BLM", messages=without, max_tokens=1)
        assert reply.usage.prompt_tokens >= shorter.usage.prompt_tokens + 16  # the picture's tokens

    def test_a_streamed_answer_is_the_same_as_a_whole_one(self, client: Any) -> None:
        options = {"model": "BLM", "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
        whole = client.chat.completions.create(**options).choices[0].message.content
        chunks = [chunk for chunk in client.chat.completions.create(**options, stream=True) if chunk.choices]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
        assert chunks[-1].choices[0].finish_reason is not None

    def test_another_models_name_is_not_found(self, client: Any) -> None:
        import openai

        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="OTHER", messages=MESSAGES)

    def test_the_readmes_chat_script_runs(self, live_server: Server, tmp_path: Path) -> None:
        self._run_readme_script("OpenAI(", live_server, tmp_path)

    def test_the_readmes_action_script_runs(self, live_server: Server, tmp_path: Path) -> None:
        printed = self._run_readme_script("/v1/actions", live_server, tmp_path)
        assert np.asarray(json.loads(printed)).shape == (16, 8)

    def _run_readme_script(self, marker: str, live_server: Server, folder: Path) -> str:
        from PIL import Image

        scripts = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        (script,) = (script for script in scripts if marker in script)
        for seed, camera in enumerate(("front", "side")):
            Image.fromarray(picture(seed=seed)).save(folder / f"{camera}.png")
        script = script.replace("http://127.0.0.1:8000", live_server.url)
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_actions_come_with_their_names_rate_and_timing(self, live_server: Server) -> None:
        status, reply = live_server.ask("/v1/actions", action_request())
        assert status == 200
        assert np.asarray(reply["actions"]).shape == (16, 8)
        assert np.isfinite(reply["actions"]).all()
        assert len(reply["names"]) == 8
        assert reply["control_hz"] == 20
        timing = reply["timing"]
        assert timing["mllm_ms"] > 0
        assert timing["denoise_ms"] > 0
        assert timing["total_ms"] >= timing["queue_ms"] + timing["mllm_ms"] + timing["denoise_ms"]

    def test_the_served_policy_is_the_policy(self, live_server: Server, live_model: Path) -> None:
        from blm.model.predictor import BlmPolicy

        observation = Observation(
            images={"front": picture(), "side": picture(seed=1)},
            state=np.asarray(STATE, np.float32),
            instruction="push the cube",
            embodiment="panda",
        )
        mine = BlmPolicy.load(live_model).infer_batch([observation], [7])[0].actions
        _, reply = live_server.ask("/v1/actions", action_request(seed=7))
        np.testing.assert_allclose(reply["actions"], mine, atol=1e-4)

    def test_robots_that_ask_together_share_a_batch(self, live_server: Server) -> None:
        requests = [action_request(seed=seed) for seed in range(24)]
        with ThreadPoolExecutor(max_workers=12) as pool:
            replies = list(pool.map(lambda body: live_server.ask("/v1/actions", body), requests))
        assert {status for status, _ in replies} == {200}
        assert max(reply["timing"]["batch"] for _, reply in replies) > 1

    @pytest.mark.parametrize(
        ("changes", "status", "says"),
        [
            ({"embodiment": "pandaa"}, 400, "did you mean 'panda'"),
            ({"embodiment": "xarm6", "state": [0.0] * 7}, 400, "not trained for 'xarm6'"),
            ({"state": [0.0, 1.0]}, 400, "needs 8 numbers"),
            ({"state": "many"}, 422, "state"),
            ({"images": {}}, 400, "no picture of camera 'front'"),
            ({"images": GOOD | {"front": "data:image/png;base64,AAAA"}}, 400, "not a readable PNG or JPEG"),
            ({"images": GOOD | {"front": encode_picture(picture(56))}}, 400, "56x56"),
            ({"instruction": " "}, 400, "instruction is empty"),
            ({"instruction": "xyzzy " * 40}, 400, "shorten it"),
            ({"unknown": 1}, 422, "unknown"),
            ({"model": "OTHER"}, 404, "OTHER"),
        ],
    )
    def test_a_bad_request_for_actions_gets_one_clear_error(
        self, live_server: Server, changes: dict[str, Any], status: int, says: str
    ) -> None:
        got, reply = live_server.ask("/v1/actions", action_request(**changes))
        assert got == status
        assert says in reply["error"]["message"]
        assert set(reply["error"]) == {"message", "type", "param", "code"}
        assert "Traceback" not in json.dumps(reply)

    @pytest.mark.parametrize("path", ["/v1/actions", "/v1/chat/completions"])
    def test_a_body_that_is_no_json_gets_status_400(self, live_server: Server, path: str) -> None:
        status, reply = live_server.ask(path, b"{never closed")
        assert status == 400
        assert reply["error"]["message"]
        assert "Traceback" not in json.dumps(reply)

    def test_a_conversation_that_is_too_long_says_so_and_no_more(self, live_server: Server) -> None:
        messages = [{"role": "user", "content": "cube " * 4000}]
        status, reply = live_server.ask("/v1/chat/completions", {"model": "BLM", "messages": messages})
        assert status == 400
        assert "maximum context length" in reply["error"]["message"]
        assert "ray." not in reply["error"]["message"]

    def test_transformers_loads_the_folder_as_it_is(self, live_model: Path) -> None:
        from transformers import AutoModelForImageTextToText

        _, report = AutoModelForImageTextToText.from_pretrained(live_model, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
