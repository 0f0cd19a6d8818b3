"""Runs in a store on a real S3 server: empty disks, kills, discarding, and what a person is told.

The driver is `small_pipeline.py` in a process of its own; each `disk` is the scratch folder of another machine.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_pipeline import call, make_stages, start

from blm.cluster.ports import free_port
from blm.cluster.stores import Store

Disk = Callable[[str], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_stages(tmp_path)
    return tmp_path


@pytest.fixture
def store(s3_store: str, empty_store: Path) -> Store:
    """The run's store, in which an empty MLflow store waits."""
    opened = Store(s3_store, patience_s=5)
    opened.put(empty_store, "small/mlflow.db")
    return opened


@pytest.fixture
def disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """`disk("a")`: drivers run on machine a from now on."""

    def use(name: str) -> None:
        monkeypatch.setenv("BLM_SCRATCH", str(folder / name))

    use("a")
    return use


def run(folder: Path, store: Store, *words: str) -> subprocess.CompletedProcess[str]:
    return call(folder, "--root", store.uri, *words)


def names(store: Store, stage: str) -> list[str]:
    """Files of a stage in the store, by their own names."""
    return sorted(n.split("/")[2] for n in store.list("small") if n.split("/")[1].startswith(f"{stage}-"))


def stage_folder(store: Store, stage: str) -> str:
    (found,) = {n.rpartition("/")[0] for n in store.list("small") if n.split("/")[1].startswith(f"{stage}-")}
    return found


def manifest(store: Store, stage: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(store.read(f"{stage_folder(store, stage)}/manifest.json") or b"")
    return loaded


def outputs(machine: Path, stage: str) -> list[str]:
    """What a machine's disk has of a stage's output."""
    found = [p for folder in machine.glob(f"*/small/{stage}-*") for p in folder.iterdir()]
    return sorted(p.name for p in found if p.suffix == ".txt")


def kill_at(folder: Path, store: Store, line: str, *words: str) -> None:
    """Start a run, and kill its driver when it says so."""
    running = start(folder, "--root", store.uri, *words)
    assert running.stdout is not None
    for said in running.stdout:
        if line in said:
            break
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()


COUNT = ("--until", "count")
SLOWLY = (*COUNT, "--to", "12", "--pause-s", "0.2")


@pytest.mark.ray
def test_a_run_goes_from_machine_to_machine(folder: Path, store: Store, disk: Disk) -> None:
    first = run(folder, store, *COUNT)
    assert first.returncode == 0, first.stderr
    assert names(store, "count") == ["000.txt", "001.txt", "002.txt", "manifest.json", "mlflow_run_id", "stage.json"]
    disk("b")
    second = run(folder, store)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("skipped") == 1
    assert f"bringing count from {store.uri}" in second.stdout
    assert outputs(folder / "b", "count") == ["000.txt", "001.txt", "002.txt"]
    assert manifest(store, "total")["summary"] == {"total": 5}
    shutil.rmtree(folder / "a")
    disk("c")
    third = run(folder, store)
    assert third.stdout.count("skipped") == 3
    assert "bringing" not in third.stdout
    for stage in ("count", "square", "total"):
        assert outputs(folder / "c", stage) == []  # nobody needed it
    store.fetch("small/mlflow.db", folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as database:
        runs = database.execute("SELECT name, status FROM runs ORDER BY start_time").fetchall()
        (places,) = database.execute("SELECT artifact_location FROM experiments WHERE name = 'small'")
    assert runs == [("count", "FINISHED"), ("square", "FINISHED"), ("total", "FINISHED")]
    assert places[0].startswith((folder / "b").as_uri())


def test_a_killed_driver_is_followed_on_the_same_disk_and_on_an_empty_one(
    folder: Path, store: Store, disk: Disk
) -> None:
    kill_at(folder, store, "[count] 3 of 12", *SLOWLY)
    assert "manifest.json" not in names(store, "count")
    kill_at(folder, store, "[count] 6 of 12", *SLOWLY)  # the dead driver's claim does not hold this one up
    claims = [name for name in store.list("small") if "/.drivers/" in name]
    store.delete(claims)  # another machine would watch them for 45 s
    before = {name: entry for name, entry in store.list(stage_folder(store, "count")).items() if ".txt" in name}
    assert len(before) >= 6
    disk("b")
    again = run(folder, store, *SLOWLY)
    assert again.returncode == 0, again.stderr
    assert "attempt 3, going on from what is there" in again.stdout
    after = store.list(stage_folder(store, "count"))
    assert {name: after[name] for name in before} == before
    assert manifest(store, "count")["attempts"] == 3
    assert len([f for f in manifest(store, "count")["files"] if f["path"].endswith(".txt")]) == 12


def test_a_stage_made_anew_is_anew_everywhere(folder: Path, store: Store, disk: Disk) -> None:
    assert run(folder, store, *COUNT).returncode == 0
    old = manifest(store, "count")
    module = folder / "count_stage.py"
    module.write_text(module.read_text().replace("write_text(str(i))", "write_text(str(i + 5))"))
    disk("b")
    assert "other code than this: count" in run(folder, store, *COUNT).stderr
    anew = run(folder, store, *COUNT, "--from", "count")
    assert anew.returncode == 0, anew.stderr
    assert manifest(store, "count")["content"] != old["content"]
    disk("a")  # its copies are of the first making, with the same names and sizes
    assert run(folder, store, *COUNT).stdout.count("skipped") == 1


def test_what_another_machine_finished_is_believed_as_far_as_it_can_be_checked(
    folder: Path, store: Store, disk: Disk
) -> None:
    assert run(folder, store, *COUNT).returncode == 0
    module = folder / "count_stage.py"
    module.write_text(module.read_text() + "\n# changed\n")
    disk("b")
    assert run(folder, store, *COUNT, "--accept-code").returncode == 0
    disk("a")
    assert run(folder, store, *COUNT).stdout.count("skipped") == 1  # accepted for every machine
    missing = f"{stage_folder(store, 'count')}/001.txt"
    store.delete([missing])
    refused = run(folder, store, *COUNT)
    assert refused.returncode == 2
    assert f"{store.uri}/{missing} is missing from a finished stage" in refused.stderr


def test_two_machines_cannot_share_a_run(folder: Path, store: Store, disk: Disk) -> None:
    running = start(folder, "--root", store.uri, *COUNT, "--to", "300", "--pause-s", "0.2")
    assert running.stdout is not None
    for line in running.stdout:
        if "[count] 1 of" in line:
            break
    disk("b")
    refused = run(folder, store, *COUNT)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    assert refused.returncode == 2
    assert f"in use by process {running.pid} on " in refused.stderr
    assert outputs(folder / "b", "count") == []


def test_a_store_that_does_not_answer_is_one_line(
    folder: Path, store: Store, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("BLM_STORE_PATIENCE_S", "2")
    refused = run(folder, store, *COUNT)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "has not answered" in refused.stderr
