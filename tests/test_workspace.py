"""Run folders: fingerprints, code hashes, manifests that are believed only as far as they can be checked, and locks."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blm.actors.sim.world import WorldConfig
from blm.model.errors import UserError
from blm.pipelines.fingerprint import code_hash, fingerprint, plain
from blm.pipelines.lock import is_locked, locked
from blm.pipelines.workspace import (
    ResourceConfig,
    accept_code,
    check_manifest,
    content_hash,
    list_files,
    made_by_other_code,
    read_manifest,
    write_json,
)

IDENTITY: dict[str, Any] = {
    "stage": "collect",
    "version": 1,
    "config": {"episodes": 10},
    "world": WorldConfig(),
    "seed": 0,
    "inputs": {"a": "00"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "render"},
        {"version": 2},
        {"config": {"episodes": 11}},
        {"world": replace(WorldConfig(), image_px=64)},
        {"seed": 1},
        {"inputs": {"a": "01"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_the_identity_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert fingerprint(**IDENTITY) == fingerprint(**IDENTITY)
    assert fingerprint(**IDENTITY) != fingerprint(**(IDENTITY | change))


def test_configurations_become_plain_json() -> None:
    assert json.loads(json.dumps(plain(WorldConfig())))["cells"] == ["panda/PushCube", "panda/PickCube"]


def test_code_hash_follows_imports_and_leaves_plumbing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "top.py").write_text("def f():\n    from some_package.below import g\n    return g\n")
    (package / "below.py").write_text("def g(): return 1\n")
    (package / "beside.py").write_text("raise RuntimeError('never imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = code_hash("some_package.top")
    (package / "beside.py").write_text("x = 2\n")
    code_hash.cache_clear()
    assert code_hash("some_package.top") == first
    (package / "below.py").write_text("def g(): return 2\n")
    code_hash.cache_clear()
    assert code_hash("some_package.top") != first
    assert "some_package.below" not in sys.modules


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished stage folder with two files."""
    folder = tmp_path / "collect-01234567"
    folder.mkdir()
    (folder / "a.txt").write_text("aaa")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.txt").write_text("b")
    (folder / ".tmp-half").write_text("left over")
    files = list_files(folder)
    manifest = {
        "format": 1,
        "stage": "collect",
        "fingerprint": "f" * 64,
        "content": content_hash(files),
        "inputs": {"a": {"content": "c"}},
        "files": files,
        "summary": {},
        "code": "code1",
        "wall_s": 1.0,
    }
    write_json(folder / "manifest.json", manifest)
    return folder


def check(folder: Path, **changes: Any) -> None:
    manifest = read_manifest(folder)
    assert manifest is not None
    now = {"fingerprint": "f" * 64, "inputs": {"a": {"fingerprint": "x", "content": "c"}}} | changes
    check_manifest(folder, manifest, **now)


def test_a_manifest_lists_output_files_and_nothing_else(finished: Path) -> None:
    manifest = read_manifest(finished)
    assert manifest is not None
    assert [(f["path"], f["bytes"]) for f in manifest["files"]] == [("a.txt", 3), ("sub/b.txt", 1)]
    check(finished)


def test_no_manifest_means_not_finished(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_manifest_is_one_clear_error(finished: Path, text: str) -> None:
    (finished / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"stage collect: .*manifest\.json .*(delete the folder|--from collect)"):
        read_manifest(finished)


def test_a_file_of_another_size_is_named(finished: Path) -> None:
    (finished / "a.txt").write_text("aaaa")
    with pytest.raises(
        UserError, match=r"a\.txt has 4 bytes, it was written with 3; delete the folder .*collect-01234567"
    ):
        check(finished)


def test_a_missing_file_is_named(finished: Path) -> None:
    (finished / "sub" / "b.txt").unlink()
    with pytest.raises(UserError, match=r"sub/b\.txt is missing from a finished stage"):
        check(finished)


def test_work_from_other_data_is_refused(finished: Path) -> None:
    with pytest.raises(
        UserError, match="made from other data: a has been made anew since; run again with --from collect"
    ):
        check(finished, inputs={"a": {"fingerprint": "x", "content": "another"}})


def test_work_for_another_configuration_is_refused(finished: Path) -> None:
    with pytest.raises(UserError, match="made for another configuration"):
        check(finished, fingerprint="0" * 64)


def test_work_of_other_code_can_be_accepted_once_and_for_all(finished: Path) -> None:
    assert not made_by_other_code(finished, "code1")
    assert made_by_other_code(finished, "code2")
    accept_code(finished, "code2")
    assert not made_by_other_code(finished, "code2")
    assert made_by_other_code(finished, "code3")


def test_a_second_process_cannot_take_a_run_folder(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from blm.pipelines.lock import locked
        with locked(Path(sys.argv[1])):
            print("held", flush=True)
            sys.stdin.read()
    """)
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert is_locked(tmp_path)
    with pytest.raises(UserError, match=rf"in use by process {holder.pid} .*--name"), locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path):  # a killed holder leaves nothing behind
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert os.listdir(path.parent) == ["a.json"]


def test_impossible_resources_are_refused() -> None:
    with pytest.raises(UserError, match="train_workers is 0"):
        ResourceConfig(train_workers=0)
    with pytest.raises(UserError, match="num_gpus is 0"):
        ResourceConfig(device="cuda")


def test_stage_two_may_have_a_number_of_workers_of_its_own() -> None:
    assert ResourceConfig(train_workers=2).for_policy == ResourceConfig(train_workers=2)
    assert ResourceConfig(train_workers=2, policy_workers=1).for_policy.train_workers == 1
    with pytest.raises(UserError, match="policy_workers must be 0 or more"):
        ResourceConfig(policy_workers=-1)
