"""The depot: what a node brings, keeps and drops, beside other nodes, other processes and kills."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_store import relay

from blm.cluster import depot
from blm.model.errors import UserError

Node = Callable[[str], Path]


@pytest.fixture(params=["file", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    found: str = f"file://{tmp_path}/store" if request.param == "file" else request.getfixturevalue("s3_store")
    return found


@pytest.fixture
def node(store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """`node("a")`: from now on this process is on node a; the folder of a stage there. The driver is on `driver`."""
    monkeypatch.setenv("BLM_SCRATCH", str(tmp_path / "driver"))
    monkeypatch.setenv("BLM_STORE_PATIENCE_S", "5")
    for name in ("BLM_STORE", "BLM_HOME"):
        monkeypatch.setenv(name, "")  # put back in the end
    home = depot.enter(store_uri)

    def go(name: str) -> Path:
        monkeypatch.setenv("BLM_SCRATCH", str(tmp_path / name))
        return depot.place(home / "run" / "count-00000000")

    return go


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def texts(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_without_a_store_files_are_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLM_STORE", "s3://of/an/earlier/call")
    assert depot.enter(tmp_path / "runs") == tmp_path / "runs"
    path = write(tmp_path / "runs" / "run" / "a", "a")
    assert depot.here(path) == depot.place(path) == path
    depot.keep(path)
    assert not depot.has_store()
    assert depot.environment() == {}
    depot.drop(path)
    depot.drop(path.parent)
    depot.drop(path)
    assert not path.parent.exists()


def test_what_one_node_keeps_another_finds(node: Node) -> None:
    ours = node("a")
    depot.keep(write(ours / "part-0", "zero"))
    write(ours / "pieces" / "deep" / "one", "one")
    write(ours / "pieces" / ".tmp-two", "half")
    depot.keep(ours / "pieces")
    write(ours / "never kept", "x")
    theirs = node("b")
    assert theirs != ours
    assert depot.here(ours / "part-0") == theirs / "part-0"  # the name it has on another node
    assert (theirs / "part-0").read_text() == "zero"
    assert texts(depot.here(theirs)) == {"part-0": "zero", "pieces/deep/one": "one"}
    assert not depot.here(theirs / "none").exists()
    assert depot.here(Path("elsewhere")) == Path("elsewhere")


def test_copies_follow_the_store(node: Node) -> None:
    kept = write(node("a") / "state", "old!")
    depot.keep(kept)
    copy = depot.here(node("b") / "state")
    time.sleep(1.1)  # S3 tells whole seconds
    node("a")
    depot.keep(write(kept, "new!"))  # of the same size
    node("b")
    assert depot.here(copy).read_text() == "new!"
    node("a")
    depot.drop(kept.parent)
    node("b")
    mine = write(copy.with_name("mine"), "not kept yet")
    depot.here(copy.parent)
    assert not copy.exists()
    assert mine.exists()


def test_what_is_newer_here_is_not_overwritten(node: Node) -> None:
    ledger = write(node("driver") / "episodes.jsonl", "1\n")
    depot.keep(ledger)
    ledger.write_text("1\n2\n")
    depot.here(ledger.parent)
    assert ledger.read_text() == "1\n2\n"


def test_copies_and_links_of_what_the_store_has_are_files_of_their_own(node: Node) -> None:
    ours = node("a")
    depot.keep(write(ours / "weights", "w"))
    shutil.copy2(ours / "weights", ours / "copied")
    (ours / "linked").hardlink_to(ours / "weights")
    assert depot.here(ours) == ours
    assert texts(ours) == {"weights": "w", "copied": "w", "linked": "w"}
    depot.settle(ours)
    assert depot.sizes(ours) == {"weights": 1, "copied": 1, "linked": 1}


def test_a_folder_is_whole_or_absent(node: Node, store_uri: str) -> None:
    ours = node("a")
    write(ours / "model" / "weights", "w")
    write(ours / "model" / "config.json", "{}")
    depot.keep(ours / "model")
    store = depot.store()
    assert store is not None
    name = "run/count-00000000/model"
    assert sorted(store.list(name)) == [f"{name}/config.json", f"{name}/weights"]
    store.write(b"", f"{name}/.keeping")  # as a process leaves it that is killed while it keeps
    theirs = node("b")
    assert not depot.here(theirs / "model").exists()
    assert texts(depot.here(theirs)) == {}
    node("a")
    depot.keep(ours / "model")
    node("b")
    assert texts(depot.here(theirs)) == {"model/config.json": "{}", "model/weights": "w"}


def test_a_finished_stage_is_what_its_manifest_says(node: Node) -> None:
    ours = node("a")
    files = [{"path": "part", "bytes": 4, "sha256": hashlib.sha256(b"good").hexdigest()}]
    write(ours / "part", "good")
    depot.settle(ours)
    depot.keep(write(ours / "manifest.json", json.dumps({"files": files})))
    theirs = node("b")
    write(theirs / "leftover", "of an attempt on this node")
    assert texts(depot.here(theirs)).keys() == {"part", "manifest.json"}
    store = depot.store()
    assert store is not None
    store.write(b"evil", "run/count-00000000/part")
    unlucky = node("c")
    with pytest.raises(UserError, match=r"part is not what the manifest of its stage says.*--from count"):
        depot.here(unlucky)
    assert not (unlucky / "part").exists()


def test_dropping_reaches_the_store_and_other_nodes(node: Node) -> None:
    ours = node("a")
    for name in ("one", "two", "folder/three"):
        depot.keep(write(ours / name, name))
    depot.here(node("b"))
    depot.drop(ours / "folder")
    depot.drop(ours / "one")
    assert depot.sizes(ours) == {"two": 3}
    node("a")
    assert texts(depot.here(ours)) == {"two": "two"}


KEEP_ALL = "import sys; from pathlib import Path; from blm.cluster import depot; depot.keep(Path(sys.argv[1]))"


@pytest.mark.parametrize("store_uri", ["s3"], indirect=True)
def test_a_process_killed_while_it_keeps_a_folder_leaves_none(
    node: Node, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = node("a")
    for number in range(12):
        write(ours / "shard" / f"{number:02d}", str(number))
    write(ours / "shard" / "index.json", "{}")
    keeper: list[subprocess.Popen[bytes]] = []

    def kill_at_the_seventh(method: str, path: str) -> int | None:
        if method == "PUT" and "/shard/07" in path:
            os.kill(keeper[0].pid, signal.SIGKILL)
        return None

    with relay(s3_address, kill_at_the_seventh) as address:
        environment = os.environ | {"AWS_ENDPOINT_URL": address}
        keeper.append(subprocess.Popen([sys.executable, "-c", KEEP_ALL, str(ours / "shard")], env=environment))
        assert keeper[0].wait(timeout=60) == -signal.SIGKILL
    kept = depot.sizes(ours)
    assert kept is not None
    assert len(kept) > 1
    assert "shard/index.json" not in kept
    theirs = node("b")
    assert not depot.here(theirs / "shard").exists()
    assert texts(depot.here(theirs)) == {}
    node("a")
    depot.keep(ours / "shard")
    assert depot.here(node("b") / "shard" / "index.json").exists()
    assert len(texts(depot.here(theirs / "shard"))) == 13


FETCH = """
import sys
from pathlib import Path
from blm.cluster import depot
print("ready", flush=True)
sys.stdin.readline()
folder = depot.here(Path(sys.argv[1]))
print(sum(path.stat().st_size for path in folder.iterdir()))
"""


@pytest.mark.parametrize("store_uri", ["file"], indirect=True)
def test_processes_of_a_node_bring_the_same_folder_at_once(node: Node) -> None:
    ours = node("a")
    for number in range(20):
        write(ours / "shard" / str(number), "x" * 100_000)
    depot.keep(ours / "shard")
    theirs = node("b")
    command = [sys.executable, "-c", FETCH, str(ours / "shard")]
    fetchers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for fetcher in fetchers:
        assert fetcher.stdout is not None
        assert fetcher.stdout.readline() == "ready\n"
    assert [fetcher.communicate("\n", timeout=60)[0] for fetcher in fetchers] == ["2000000\n"] * 3
    assert len(list((theirs / "shard").iterdir())) == 20
    assert not list(theirs.rglob(".tmp-*"))


def test_a_probe_says_whether_the_store_works(node: Node, store_uri: str) -> None:
    node("a")
    assert depot.probe() == store_uri
    store = depot.store()
    assert store is not None
    assert store.list("") == {}
