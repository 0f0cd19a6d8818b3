"""The server: its parts without Ray, and the whole of it in a process of its own, asked by real clients.

One server is started for all tests that need one: that takes a minute or two, most of it vLLM.
"""

import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from small_policy import write_small_policy

from blm.model.errors import UserError
from blm.model.types import Observation
from blm.pipelines import cli
from blm.pipelines.serve import why_not
from blm.serve.checkpoint import check_folder
from blm.serve.codec import decode_picture, encode_picture
from blm.serve.schema import ActionRequest, error_object, explain

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 420
STATE = [0.0, 0.4, 0.0, -2.0, 0.0, 2.4, 0.8, 1.0]


def picture(px: int = 112, seed: int = 0) -> np.ndarray:
    """A picture of noise, uint8 [px, px, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (px, px, 3), dtype=np.uint8)


def action_request(**changes: Any) -> dict[str, Any]:
    """A good request for actions, with changes."""
    images = {"front": encode_picture(picture())}
    return {"embodiment": "panda", "instruction": "push the cube", "state": STATE, "images": images, **changes}


@pytest.fixture(scope="session")
def small_model(tiny_mllm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint folder with everything in it."""
    return write_small_policy(tmp_path_factory.mktemp("checkpoint") / "model", tiny_mllm)


# ---------------------------------------------------------------------------- pictures and requests


def test_a_picture_survives_the_wire() -> None:
    assert (decode_picture(encode_picture(picture()), "front") == picture()).all()


def test_a_picture_may_come_as_bare_base64() -> None:
    assert (decode_picture(encode_picture(picture()).partition(",")[2], "front") == picture()).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not base64 at all!", "not valid base64"),
        ("data:image/png;base64,AAAA", "not a readable PNG or JPEG"),
        ("data:image/png,plain", "data:image/png;base64"),
        ("", "not a readable PNG or JPEG"),
        ("R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs=", "not a readable PNG or JPEG"),  # a GIF
    ],
)
def test_a_bad_picture_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        decode_picture(text, "front")
    assert "'front'" in str(caught.value)


def test_a_huge_picture_is_refused_before_it_is_decoded() -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, format="PNG")  # 10 kB of file, 243 MB of RGB
    with pytest.raises(UserError, match="9000x9000"):
        decode_picture(base64.b64encode(buffer.getvalue()).decode(), "front")


def test_a_request_becomes_an_observation() -> None:
    observation = ActionRequest.model_validate_json(json.dumps(action_request())).observation()
    assert observation.state.dtype == np.float32
    assert (observation.images["front"] == picture()).all()


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"state": "many"}, "state"), ({"colour": 1}, "colour"), ({"seed": -1}, "seed"), ({"images": None}, "images")],
)
def test_what_is_wrong_with_a_request_names_the_field_and_not_the_value(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ActionRequest.model_validate_json(json.dumps(action_request(**changes)))
    message, named = explain(caught.value)
    assert named == field
    assert message.startswith(f"{field}: ")
    assert "base64" not in message


def test_an_error_has_the_openai_shape() -> None:
    error = error_object("too late", 503)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "server_error"


# ---------------------------------------------------------------------------- batches


def test_a_batch_gives_each_robot_the_answer_it_gets_alone(small_model: Path) -> None:
    from blm.model.predictor import BlmPolicy
    from blm.serve.actions import Batcher, Question

    policy = BlmPolicy.load(small_model)

    def question(seed: int, px: int = 112) -> Question:
        observation = Observation(
            images={"front": picture(px, seed)},
            state=np.asarray(STATE, np.float32),
            instruction="push the cube",
            embodiment="panda",
        )
        return Question(observation=observation, seed=seed, asked_s=time.time())

    questions = [question(1), question(2, px=56), question(3)]
    first, refused, third = Batcher(policy).answer(questions)
    assert refused.actions is None
    assert "56x56" in refused.refusal
    for answer, asked in ((first, questions[0]), (third, questions[2])):
        assert answer.actions is not None
        assert answer.batch == 2
        alone = policy.infer_batch([asked.observation], [asked.seed])[0]
        np.testing.assert_allclose(answer.actions, alone.actions, atol=1e-4)


def test_a_question_nobody_can_answer_spoils_no_other(small_model: Path) -> None:
    from blm.model.predictor import BlmPolicy
    from blm.serve.actions import Batcher, Question

    def question(embodiment: str, state: list[float]) -> Question:
        observation = Observation(
            images={"front": picture()},
            state=np.asarray(state, np.float32),
            instruction="push the cube",
            embodiment=embodiment,
        )
        return Question(observation=observation, seed=0, asked_s=time.time())

    untrained, fine = Batcher(BlmPolicy.load(small_model)).answer(
        [question("xarm6", [0.0] * 7), question("panda", STATE)]
    )
    assert "xarm6" in untrained.refusal
    assert fine.actions is not None


# ---------------------------------------------------------------------------- mistakes at the command


def says(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that `blm serve` says before it ends with code 2."""
    assert cli.main(["serve", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_missing_model_folder_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "nowhere does not exist" in says(capsys, "--model", str(tmp_path / "nowhere"))


def test_a_folder_without_a_model_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "config.json is missing" in says(capsys, "--model", str(tmp_path))


def test_a_model_without_a_policy_is_one_line_that_offers_chat_alone(
    capsys: pytest.CaptureFixture[str], tiny_mllm: Path
) -> None:
    line = says(capsys, "--model", str(tiny_mllm))
    assert "blm.json" in line
    assert "--chat-only" in line
    check_folder(tiny_mllm, with_policy=False)


def test_a_checkpoint_without_its_weights_is_one_line(
    capsys: pytest.CaptureFixture[str], small_model: Path, tmp_path: Path
) -> None:
    import shutil

    damaged = shutil.copytree(small_model, tmp_path / "model")
    (damaged / "policy.safetensors").unlink()
    assert "lacks policy.safetensors" in says(capsys, "--model", str(damaged))
    (damaged / "model.safetensors").unlink()
    assert "no weights" in says(capsys, "--model", str(damaged))


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str], small_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = says(capsys, "--model", str(small_model), "--port", str(port))
    assert f"port {port}: it is in use" in line


def test_a_misspelt_option_in_the_configuration_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_model: Path
) -> None:
    (tmp_path / "serve.yaml").write_text("chat:\n  max_imagse: 3\n")
    line = says(capsys, "--model", str(small_model), "--config", str(tmp_path / "serve.yaml"))
    assert "chat.max_imagse" in line
    assert "max_images" in line


def test_the_reason_of_a_failed_start_is_found_in_the_parts_tracebacks() -> None:
    ours = "failed to start:\nTraceback ...\nblm.model.errors.UserError: blm.json is damaged; copy it again"
    assert why_not(RuntimeError("Deploying failed"), ["", ours]) == "blm.json is damaged; copy it again"
    other = "Traceback ...\n  File x\nValueError: no room for the cache\nretrying"
    assert "no room for the cache" in why_not(RuntimeError("Deploying failed"), [other])


# ---------------------------------------------------------------------------- a real server


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A running `blm serve`."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and decoded JSON of a GET, or of a POST if there is a body (bytes go as they are)."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def server(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`blm serve` on a free port, ready for questions."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "server.log"
    command = [str(Path(sys.executable).with_name("blm")), "serve", "--model", str(small_model), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + START_TIMEOUT_S
    while "is ready at" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.5)
    yield Server(process=process, url=f"http://127.0.0.1:{port}", log=log)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    """The OpenAI SDK's client."""
    import openai

    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="empty", max_retries=0)


MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "You describe what you see."},
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": encode_picture(picture())}},
            {"type": "text", "text": "Where is the cube?"},
        ],
    },
]


@pytest.mark.ray
@pytest.mark.slow
class TestServer:
    """Everything that is asked of one running server; the last test ends it."""

    def test_the_console_shows_where_it_is_and_nothing_else(self, server: Server) -> None:
        lines = server.log.read_text().splitlines()
        assert all(line.startswith(("[serve] ", "  ")) for line in lines), lines
        assert any(line.startswith("  chat:     curl ") for line in lines)

    def test_models_lists_blm(self, client: Any) -> None:
        assert [model.id for model in client.models.list().data] == ["BLM"]

    def test_health_is_ok(self, server: Server) -> None:
        assert server.ask("/health") == (200, {"status": "ok", "model": "BLM", "parts": ["chat", "actions"]})

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

    def test_the_readmes_chat_script_runs(self, server: Server, tmp_path: Path) -> None:
        self._run_readme_script("OpenAI(", server, tmp_path)

    def test_the_readmes_action_script_runs(self, server: Server, tmp_path: Path) -> None:
        printed = self._run_readme_script("/v1/actions", server, tmp_path)
        assert np.asarray(json.loads(printed)).shape == (16, 8)

    def _run_readme_script(self, marker: str, server: Server, folder: Path) -> str:
        from PIL import Image

        scripts = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        (script,) = (script for script in scripts if marker in script)
        Image.fromarray(picture()).save(folder / "scene.png")
        script = script.replace("http://127.0.0.1:8000", server.url)
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_actions_come_with_their_names_rate_and_timing(self, server: Server) -> None:
        status, reply = server.ask("/v1/actions", action_request())
        assert status == 200
        assert np.asarray(reply["actions"]).shape == (16, 8)
        assert np.isfinite(reply["actions"]).all()
        assert len(reply["names"]) == 8
        assert reply["control_hz"] == 20
        assert reply["timing"]["total_ms"] >= reply["timing"]["infer_ms"] > 0

    def test_the_served_policy_is_the_policy(self, server: Server, small_model: Path) -> None:
        from blm.model.predictor import BlmPolicy

        body = ActionRequest.model_validate(action_request(seed=7))
        mine = BlmPolicy.load(small_model).infer_batch([body.observation()], [7])[0].actions
        _, reply = server.ask("/v1/actions", action_request(seed=7))
        np.testing.assert_allclose(reply["actions"], mine, atol=1e-4)

    def test_robots_that_ask_together_share_a_batch(self, server: Server) -> None:
        requests = [action_request(seed=seed) for seed in range(24)]
        with ThreadPoolExecutor(max_workers=12) as pool:
            replies = list(pool.map(lambda body: server.ask("/v1/actions", body), requests))
        assert {status for status, _ in replies} == {200}
        assert max(reply["timing"]["batch"] for _, reply in replies) > 1

    @pytest.mark.parametrize(
        ("changes", "status", "says"),
        [
            ({"embodiment": "pandaa"}, 400, "did you mean 'panda'"),
            ({"embodiment": "xarm6", "state": [0.0] * 7}, 400, "not trained for 'xarm6'"),
            ({"state": [0.0, 1.0]}, 400, "state has shape"),
            ({"state": "many"}, 422, "state"),
            ({"images": {}}, 400, "lacks camera 'front'"),
            ({"images": {"front": "data:image/png;base64,AAAA"}}, 400, "not a readable PNG or JPEG"),
            ({"images": {"front": encode_picture(picture(56))}}, 400, "56x56"),
            ({"instruction": " "}, 400, "instruction is empty"),
            ({"unknown": 1}, 422, "unknown"),
            ({"model": "OTHER"}, 404, "OTHER"),
        ],
    )
    def test_a_bad_request_for_actions_gets_one_clear_error(
        self, server: Server, changes: dict[str, Any], status: int, says: str
    ) -> None:
        got, reply = server.ask("/v1/actions", action_request(**changes))
        assert got == status
        assert says in reply["error"]["message"]
        assert set(reply["error"]) == {"message", "type", "param", "code"}
        assert "Traceback" not in json.dumps(reply)

    @pytest.mark.parametrize("path", ["/v1/actions", "/v1/chat/completions"])
    def test_a_body_that_is_no_json_gets_status_400(self, server: Server, path: str) -> None:
        status, reply = server.ask(path, b"{never closed")
        assert status == 400
        assert reply["error"]["message"]
        assert "Traceback" not in json.dumps(reply)

    def test_transformers_loads_the_folder_as_it_is(self, small_model: Path) -> None:
        from transformers import AutoModelForImageTextToText

        _, report = AutoModelForImageTextToText.from_pretrained(small_model, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]

    def test_ctrl_c_ends_it_and_leaves_nothing_behind(self, server: Server) -> None:
        import psutil

        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 0
        assert server.log.read_text().splitlines()[-1] == "[serve] stopping"
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
        with pytest.raises(urllib.error.URLError):
            server.ask("/health")
