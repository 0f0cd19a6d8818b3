"""Logs of a node's workers and daemons: which files, how much of them, and from every node of a cluster."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blm.cluster import logs
from blm.cluster.logs import collect_logs, tails


def write(folder: Path, name: str, content: bytes, *, age_s: float = 0.0) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = time.time() - age_s
    os.utime(path, (then, then))


def test_files_of_the_job_and_the_daemons_are_taken_and_others_left(tmp_path: Path) -> None:
    write(tmp_path, "worker-abc-02000000-123.out", b"ours")
    write(tmp_path, "worker-abc-01000000-124.out", b"another job's")
    write(tmp_path, "worker-def-ffffffff-127.out", b":job_id:02000000\nstarted before the job")
    write(tmp_path, "worker-ghi-ffffffff-128.out", b":job_id:01000000\nnot ours")
    write(tmp_path, "worker-abc-02000000-125.err", b"")
    write(tmp_path, "worker-old-02000000-126.err", b"before", age_s=1000)
    write(tmp_path, "raylet.out", b"the daemon")
    write(tmp_path, "train/ray-train.log", b"of Ray Train")
    write(tmp_path, "dashboard.log", b"nobody asked")
    found = tails(tmp_path, "02000000", time.time() - 100)
    assert found == {
        "worker-abc-02000000-123.out": b"ours",
        "worker-def-ffffffff-127.out": b":job_id:02000000\nstarted before the job",
        "raylet.out": b"the daemon",
        "train-ray-train.log": b"of Ray Train",
    }


def test_of_long_files_the_end_is_kept_and_all_together_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 100)
    monkeypatch.setattr(logs, "NODE_BYTES", 250)
    for number in range(5):
        write(tmp_path, f"worker-{number}-02000000-1.out", b"x" * 1000 + b"end", age_s=number)
    found = tails(tmp_path, "02000000", 0.0)
    assert sum(map(len, found.values())) == 250
    assert all(content.endswith(b"end") for content in found.values())
    assert sorted(found) == [f"worker-{number}-02000000-1.out" for number in range(3)]  # the newest


def test_without_ray_or_a_folder_there_is_nothing(tmp_path: Path) -> None:
    assert tails(None, "01", 0.0) == {}
    assert tails(tmp_path / "absent", "01", 0.0) == {}
    call = f"print(collect_logs(Path({str(tmp_path)!r}), since=0))"
    words = f"from pathlib import Path; from blm.cluster.logs import collect_logs; {call}"
    command = [sys.executable, "-c", words]  # in a process of its own: in this one Ray may be up
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())


def shout(word: str) -> None:
    print(f"[collect] {word}", flush=True)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_a_worker_said_is_brought(tmp_path: Path) -> None:
    import ray

    word = f"said-by-{os.getpid()}"
    began = time.time()
    ray.get(ray.remote(shout).remote(word))
    (name,) = collect_logs(tmp_path, since=began - 5)
    files = list((tmp_path / name).iterdir())
    assert any(word in path.read_text(errors="replace") for path in files if path.name.startswith("worker-"))
    assert sum(path.stat().st_size for path in files) <= logs.NODE_BYTES
