"""Clients that people already have, unchanged, against a running `blm serve`; and those who mean it ill.

bash cluster/setup/openpi_env.sh; bash cluster/setup/vla_eval_env.sh; bash cluster/setup/schemathesis_env.sh
"""

import base64
import io
import json
import os
import re
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from small_abuse import KEY, Victim, inner_service, rest, victim
from small_server import Server, action_request, picture

ROOT = Path(__file__).parent.parent
OPENPI = ROOT / ".venv-openpi" / "bin" / "python"
VLA_EVAL = ROOT / ".venv-vla-eval" / "bin" / "vla-eval"
SCHEMATHESIS = ROOT / ".venv-schemathesis" / "bin" / "schemathesis"


def needs(program: Path, script: str) -> pytest.MarkDecorator:
    """Skips, with the reason, where somebody else's program is not installed."""
    return pytest.mark.skipif(not program.exists(), reason=f"not here; bash cluster/setup/{script}")


def run(*words: str | Path, folder: Path = ROOT) -> str:
    """What a program prints; it must succeed. folder: where it works."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def schemathesis(url: str, folder: Path, *words: str) -> str:
    """What schemathesis says of a server; it must find nothing."""
    settings = ["--workers", "1", "--seed", "1", "--no-shrink", "--generation-database", "none", "--no-color"]
    (folder / "none.toml").write_text("")
    given = ["--config-file", folder / "none.toml", "run", f"{url}/openapi.json", *settings, *words]
    return run(SCHEMATHESIS, *given, folder=folder)


@needs(SCHEMATHESIS, "schemathesis_env.sh")
def test_schemathesis_finds_what_the_description_says(tmp_path: Path) -> None:
    with victim() as server:
        key = f"X-API-Key: {KEY}"
        url = f"http://127.0.0.1:{server.port}"
        paths = [f"--include-path={path}" for path in ("/v1/actions", "/v1/contract", "/health", "/livez")]
        # No description can say which numbers make a state of which robot, so not all that fits it is accepted.
        checks = ["--exclude-checks", "positive_data_acceptance", "--max-examples", "30"]
        said = schemathesis(url, tmp_path, "-H", key, *checks, *paths)
        counts = re.search(r"(\d+) generated, (\d+) passed", said)
        assert counts is not None, said
        assert int(counts[1]) == int(counts[2]) > 100
        assert server.act()[0] == 200


@pytest.mark.ray
@pytest.mark.slow
class TestRunningServer:
    """The one server, with its defaults."""

    def test_the_published_chat_client_runs_unchanged(self, live_server: Server, tmp_path: Path) -> None:
        from openai import OpenAI

        Image.fromarray(picture()).save(tmp_path / "image.png")
        encoded = base64.b64encode((tmp_path / "image.png").read_bytes()).decode("utf-8")
        client = OpenAI(api_key="empty", base_url=f"{live_server.url}/v1")
        reply = client.chat.completions.create(
            model=client.models.list().data[0].id,
            max_tokens=8,
            messages=[
                {"role": "system", "content": "You describe what you see."},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
                        {"type": "text", "text": "Where is the cube?"},
                    ],
                },
            ],
        )
        assert reply.model == "BLM"
        assert reply.usage is not None
        assert reply.usage.completion_tokens >= 1

    @needs(OPENPI, "openpi_env.sh")
    def test_openpis_client_drives(self, live_server: Server) -> None:
        told = json.loads(run(OPENPI, "tests/openpi_live.py", live_server.url.rpartition(":")[2]))
        actions = np.asarray(told["actions"])
        assert actions.shape == (16, 8)
        assert np.isfinite(actions).all()
        assert told["timing"]["mllm_ms"] > 0
        assert "instruction is empty" in told["complaint"]
        assert "Traceback" not in told["complaint"]

    @needs(VLA_EVAL, "vla_eval_env.sh")
    def test_the_harness_vla_eval_drives(self, live_server: Server, tmp_path: Path) -> None:
        entry = {"benchmark": "vla_eval_looking:Looking", "episodes_per_task": 1}
        (tmp_path / "config.yaml").write_text(json.dumps({"output_dir": str(tmp_path), "benchmarks": [entry]}))
        url = live_server.url.replace("http", "ws")
        run(VLA_EVAL, "run", "-c", tmp_path / "config.yaml", "--server-url", url, "--eval-id", "test")
        report = json.loads((tmp_path / "Looking_aggregate.json").read_text())
        assert report["num_errors"] == 0, report
        (episode,) = (episode for task in report["tasks"] for episode in task["episodes"])
        assert np.asarray(episode["metrics"]["actions"]).shape == (12, 8)

    @needs(SCHEMATHESIS, "schemathesis_env.sh")
    def test_schemathesis_brings_nothing_down(self, live_server: Server, tmp_path: Path) -> None:
        words = ["--checks=not_a_server_error", "--phases=fuzzing", "--max-examples=4", "--request-timeout=20"]
        schemathesis(live_server.url, tmp_path, *words)
        assert live_server.ask("/health")[0] == 200

    def test_no_abuse_gets_past_the_front(self, live_server: Server) -> None:
        server = Victim(int(live_server.url.rpartition(":")[2]), [], None)
        headers = {"Content-Type": "application/json"}
        began = time.monotonic()
        crowd = [server.raw(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n") for _ in range(64)]

        def talk(url: str) -> int:
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
            body = {"model": "BLM", "max_tokens": 1, "messages": [{"role": "user", "content": content}]}
            return server.send("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)[0]

        buffer = io.BytesIO()
        Image.new("1", (10_000, 10_000)).save(buffer, format="PNG")
        assert talk("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()) == 413
        with inner_service() as (port, asked):
            for host in ("127.0.0.1", "localhost", "2130706433"):
                assert talk(f"http://{host}:{port}/away") == 400
            assert asked == []
        for url in ("http://169.254.169.254/latest/meta-data/", "file:///etc/passwd"):
            assert talk(url) == 400
        assert server.send("GET", "/%2e%2e/%2e%2e/etc/passwd")[0] == 400
        assert server.send("POST", "/v1/load_lora_adapter", b"{}", headers)[0] == 404
        assert server.send("POST", "/v1/actions", b"{}", {**headers, "Content-Encoding": "gzip"})[0] == 415
        foreign = {"Origin": "https://evil.example"}
        assert httpx.post(f"{live_server.url}/v1/actions", json={}, headers=foreign).status_code == 403
        assert live_server.ask("/v1/actions", action_request())[0] == 200, "others are served meanwhile"
        for connection in crowd:
            rest(connection)
        assert time.monotonic() - began < 30
        assert live_server.ask("/v1/actions", action_request())[0] == 200
