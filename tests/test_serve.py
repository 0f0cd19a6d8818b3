"""The server's parts, without Ray, and the mistakes that `blm serve` answers with one line."""

import base64
import io
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from small_policy_server import description_of_random
from small_server import action_request, picture, write_speaking_policy

from blm.model.errors import UserError
from blm.pipelines import cli
from blm.pipelines.serve_start import why_not
from blm.serve.checkpoint import check_folder
from blm.serve.sessions.observations import Reader
from blm.serve.web.actions import from_json
from blm.serve.web.codec import decode_picture, encode_picture
from blm.serve.web.schema import ActionRequest, error_object, explain


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint folder with everything in it."""
    return write_speaking_policy(tmp_path_factory.mktemp("checkpoint"))


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
    body = json.dumps(action_request(seed=3)).encode()
    reader = Reader(description=description_of_random(cameras=("front",), image_px=112))
    observation, seed = from_json(body, reader)
    assert observation.state.dtype == np.float32
    assert (observation.images["front"] == picture()).all()
    assert set(observation.images) == {"front"}  # nobody looks through the other
    assert seed == 3


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
