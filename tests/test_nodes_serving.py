"""A model that is served from its address in a store: every node brings it to its own disk."""

import json
from pathlib import Path

import pytest
import yaml
from small_policy import write_small_policy

from blm.model.errors import UserError
from blm.pipelines.serve_config_file import config_file
from blm.pipelines.workspace import MANIFEST, list_files
from blm.serve.checkpoint import check_folder, fetched, full_name
from blm.serve.config import ServeConfig


@pytest.fixture
def served(tmp_path: Path, tiny_mllm: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a model in a store, as a replica's process on some node has it."""
    for name in ("BLM_STORE", "BLM_HOME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("BLM_SCRATCH", str(tmp_path / "disk"))
    stage = tmp_path / "store/tiny/stage2-00000000"
    write_small_policy(stage / "model", tiny_mllm)
    (stage / MANIFEST).write_text(json.dumps({"files": list_files(stage)}))
    return f"file://{stage}/model"


def test_the_model_is_brought_whole(served: str, tmp_path: Path) -> None:
    folder = fetched(served)
    assert folder.is_relative_to(tmp_path / "disk")
    check_folder(folder, with_policy=True)
    there = sorted(path.name for path in (tmp_path / "store/tiny/stage2-00000000/model").iterdir())
    assert sorted(path.name for path in folder.iterdir()) == there


def test_a_model_that_is_not_what_its_manifest_says_is_refused(served: str, tmp_path: Path) -> None:
    weights = tmp_path / "store/tiny/stage2-00000000/model/policy.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    with pytest.raises(UserError, match=r"policy\.safetensors is not what the manifest of its stage says"):
        fetched(served)


def test_an_address_without_a_model_is_refused(served: str) -> None:
    nothing = served.replace("stage2-00000000", "stage2-11111111")
    with pytest.raises(UserError, match="does not exist"):
        check_folder(fetched(nothing), with_policy=True)
    with pytest.raises(UserError, match="names no folder"):
        fetched("s3://bucket")


def test_replicas_are_told_the_address_and_not_a_folder_of_another_node(served: str) -> None:
    assert full_name(f"{served}/") == served
    assert full_name("models/blm") == str(Path.cwd() / "models/blm")
    told = yaml.safe_load(config_file(served, ServeConfig(), "cpu", name="blm.yaml"))
    assert told["applications"][0]["args"]["model"] == served
