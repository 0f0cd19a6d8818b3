"""Stores against a real S3 server: whole files or none, patience with failures, one line for refusals."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from small_store import CREDENTIALS, make_bucket, point_at, relay, s3_server

from blm.cluster.ports import free_port
from blm.cluster.stores import Entry, Store
from blm.model.errors import UserError

MEGABYTES_20 = 20 * 2**20


@pytest.fixture(params=["s3", "file"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store of each sort."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    for name, value in point_at(request.getfixturevalue("s3_address")).items():
        monkeypatch.setenv(name, value)
    return f"s3://runs/{uuid.uuid4().hex}"


def test_files_come_back_as_they_were_sent(uri: str, tmp_path: Path) -> None:
    store = Store(uri, patience_s=5)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(MEGABYTES_20))
    assert store.list("run") == {}
    assert store.find("run/stage") is None
    assert store.read("run/stage/none") is None
    entry = store.put(source, "run/stage/large")
    store.write(b"small", "run/stage/deep/small")
    assert entry.size == MEGABYTES_20
    assert store.find("run/stage/large") == entry
    assert store.find("run/stage") == "folder"
    assert store.folders("run/stage") == ["run/stage/deep"]
    assert {name: found.size for name, found in store.list("run").items()} == {
        "run/stage/large": MEGABYTES_20,
        "run/stage/deep/small": 5,
    }
    store.fetch("run/stage/large", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == source.read_bytes()
    assert store.read("run/stage/deep/small") == b"small"
    store.delete(["run/stage/large", "run/stage/none"])
    assert list(store.list("run")) == ["run/stage/deep/small"]
    store.delete_folder("run/stage")
    store.delete_folder("run/none")
    assert store.list("run") == {}


SEND = """
import sys
from pathlib import Path
from blm.cluster.stores import Store
print("sending", flush=True)
Store(sys.argv[1], patience_s=5).put(Path(sys.argv[2]), "run/stage/large")
"""


def test_a_process_killed_while_it_sends_leaves_nothing(s3_store: str, s3_address: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(MEGABYTES_20))
    sender: list[subprocess.Popen[str]] = []

    def kill_at_the_second_part(method: str, path: str) -> int | None:
        if method == "PUT" and "partNumber=2" in path:
            os.kill(sender[0].pid, signal.SIGKILL)
        return None

    with relay(s3_address, kill_at_the_second_part) as address:
        command = [sys.executable, "-c", SEND, s3_store, str(source)]
        sender.append(subprocess.Popen(command, env=os.environ | point_at(address), text=True))
        assert sender[0].wait(timeout=60) == -signal.SIGKILL
    assert Store(s3_store, patience_s=5).find("run/stage/large") is None


def test_a_file_that_changes_while_it_is_sent_never_appears(
    s3_store: str, s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(MEGABYTES_20))

    def cut_the_file(method: str, path: str) -> int | None:
        if method == "POST" and path.endswith("uploads"):  # the upload begins, with the first of two blocks
            os.truncate(source, 17 * 2**20)
        return None

    store = Store(s3_store, patience_s=5)
    store.write(b"what was there before", "run/stage/large")
    with relay(s3_address, cut_the_file) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(UserError, match="has changed while it was kept"):
            Store(s3_store, patience_s=0).put(source, "run/stage/large")
    assert store.read("run/stage/large") == b"what was there before"


@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD"])
def test_failures_of_the_store_are_outlasted(
    method: str, s3_store: str, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [500, 503, 500, 503]  # pyarrow tries three times by itself

    def fail_at_first(asked: str, path: str) -> int | None:
        return failures.pop() if asked == method and failures else None

    with relay(s3_address, fail_at_first) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store = Store(s3_store, patience_s=60)
        entry = store.write(b"content", "run/file")
        assert store.read("run/file") == b"content"
        assert store.find("run/file") == entry
        assert list(store.list("run")) == ["run/file"]
    assert failures == []


def test_a_store_that_cannot_be_reached_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in point_at(f"http://127.0.0.1:{free_port()}").items():
        monkeypatch.setenv(name, value)
    began_s = time.monotonic()
    with pytest.raises(UserError, match=r"s3://runs/none has not answered for .*AWS_ENDPOINT_URL"):
        Store("s3://runs/none", patience_s=2).find("run")
    assert time.monotonic() - began_s < 30


def use(call: Callable[[Store], object], uri: str) -> str:
    """What a person is told of a refusal, which must come at once although there would be time."""
    began_s = time.monotonic()
    with pytest.raises(UserError) as refused:
        call(Store(uri, patience_s=600))
    assert time.monotonic() - began_s < 60
    return str(refused.value)


def test_wrong_credentials_and_missing_buckets_are_said_at_once(
    s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no such bucket; make it" in use(lambda store: store.write(b"x", "run/x"), "s3://nowhere/x")
    with s3_server(tmp_path / "log", INITIAL_NO_AUTH_ACTION_COUNT="1") as address:
        make_bucket(address, "runs")
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        for call in (
            lambda store: store.write(b"x", "run/x"),
            lambda store: store.find("run/x"),
            lambda store: store.list("run"),
        ):
            assert "refuses these credentials" in use(call, "s3://runs/x")


def test_addresses_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    for address, part in {
        "s3://key:secret@runs/x": "holds credentials",
        "s3://": "no address of a store",
        "s3://runs/x?region=a": "no address of a store",
        "ftp://runs/x": "cannot be opened",
    }.items():
        with pytest.raises(UserError, match=part):
            Store(address, patience_s=1)


def test_a_full_disk_is_no_fault_of_the_store(uri: str, tmp_path: Path) -> None:
    store = Store(uri, patience_s=600)
    store.write(b"x" * 2**20, "run/file")
    with pytest.raises(OSError, match="No space left"):
        store.fetch("run/file", Path("/dev/full"))
    assert isinstance(store.find("run/file"), Entry)
