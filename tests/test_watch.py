"""Watching a stage: progress from its lines, the file that tells it, and what `blm status` makes of both."""

import contextlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from blm.cluster import depot
from blm.pipelines import cli, watch
from blm.pipelines.watch import Watch, logs_folder, status_file, watched
from blm.pipelines.workspace import write_json


def test_rate_and_time_left_come_from_the_counts_in_lines() -> None:
    one = Watch("render", 1)
    one.hear("[render] 10/100 episode files, 5 frames/s", now=100.0)
    assert one.record(now=101.0)["per_s"] is None
    one.hear("[render] 30/100 episode files", now=110.0)
    record = one.record(now=110.0)
    assert (record["done"], record["of"], record["per_s"]) == (30, 100, 2.0)
    assert record["left_s"] == pytest.approx(35.0)


def test_a_count_that_begins_anew_has_a_rate_of_its_own() -> None:
    one = Watch("stage1", 1)
    one.hear("[stage1] vision warm-up 25/600", now=0.0)
    one.hear("[stage1] vision warm-up 600/600", now=100.0)
    one.hear("[stage1] conversations 25/700", now=110.0)
    assert one.record()["per_s"] is None
    one.hear("[stage1] conversations 75/700", now=120.0)
    assert one.record()["per_s"] == pytest.approx(5.0)


def test_lines_of_others_and_dates_are_no_progress() -> None:
    one = Watch("collect", 1)
    one.hear("[ray] 3/4 of something else")
    one.hear("[collect] 12/5 is more than there is")
    assert one.record()["of"] is None
    one.hear("[collect] 1 of 3 cells, 470 episodes, 15 s")
    assert (one.record()["done"], one.record()["of"]) == (1, 3)


def test_only_the_last_lines_are_kept() -> None:
    one = Watch("collect", 1)
    for number in range(50):
        one.hear(f"[collect] line {number}")
    lines = one.record()["lines"]
    assert len(lines) == watch.LINES
    assert lines[-1] == "[collect] line 49"


def test_what_is_printed_still_appears_and_is_heard_from_every_thread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak(who: str) -> None:
        for number in range(50):
            print(f"[collect] {who} {number}", flush=True)

    with watched(tmp_path / "collect-1", "collect", attempt=1):
        threads = [threading.Thread(target=speak, args=(who,)) for who in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print("not progress")
        print("[collect] half a line, ", end="")
        print("3/4 done")
        print("[collect] 50/50 last", file=sys.stdout)
    out = capsys.readouterr().out
    assert out.count("[collect] a ") == 50
    assert out.count("[collect] b ") == 50
    record = json.loads(status_file(tmp_path / "collect-1").read_text())
    assert record["lines"][-2:] == ["[collect] half a line, 3/4 done", "[collect] 50/50 last"]
    assert "not progress" not in record["lines"]
    assert record["ended"] == "finished"


def test_a_failure_is_told_and_stays_the_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no more"), watched(tmp_path / "stage2-1", "stage2", attempt=3):
        raise RuntimeError("no more\nof that")
    record = json.loads(status_file(tmp_path / "stage2-1").read_text())
    assert record["ended"] == "RuntimeError: no more"
    assert record["attempt"] == 3


def test_a_folder_that_cannot_be_written_ends_no_stage(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("a file where a folder should be")
    done = []
    with watched(tmp_path / "collect-1", "collect", attempt=1):
        done.append("worked")
    assert done == ["worked"]


# --------------------------------------------------------------------------------------------------------- blm status


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose first stage is half done."""
    stages = {"collect": {"folder": "collect-01234567"}, "render": {"folder": "render-01234567"}}
    folder = tmp_path / "runs" / "tiny"
    write_json(folder / "run.json", {"asked": "2026-01-01 10:00:00", "stages": stages})
    begun = {"stage": "collect", "begun": "2026-01-01 10:00:00", "attempts": 2, "wall_s": 12.0, "code": "x"}
    write_json(folder / "collect-01234567" / "stage.json", begun)
    return folder


def shown(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["status", "tiny", "--root", str(run.parent)]) == 0
    return capsys.readouterr().out


def record(**more: Any) -> dict[str, Any]:
    one = Watch("collect", 2)
    one.hear("[collect] 10/90 blocks", now=time.time() - 10)
    one.hear("[collect] 30/90 blocks")
    return one.record() | more


@contextlib.contextmanager
def busy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As if a driver held the run."""
    monkeypatch.setattr("blm.pipelines.cli_status.is_locked", lambda folder: True)
    yield


def test_a_running_stage_shows_progress_nodes_and_last_words(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [
        {"name": "head", "id": "aaaaaa", "alive": True, "cpus": 0, "gpus": 0, "kinds": []},
        {"name": "sim-1", "id": "bbbbbb", "alive": True, "cpus": 32, "gpus": 0, "kinds": ["cpu-sim"]},
        {"name": "sim-2", "id": "cccccc", "alive": False, "cpus": 32, "gpus": 0, "kinds": ["cpu-sim"]},
    ]
    write_json(status_file(run / "collect-01234567"), record(nodes=nodes))
    with busy(monkeypatch):
        text = shown(run, capsys)
    for words in (
        "running now",
        "running ",
        "attempt 2",
        "30/90 (33%)",
        "2 a second",
        "left",
        "| [collect] 30/90 blocks",
    ):
        assert words in text, text
    assert "2 nodes, 1 lost, 32 CPUs" in text
    assert "sim-2 cccccc: 32 CPUs, 0 GPUs, cpu-sim  LOST" in text


def test_a_stage_whose_driver_is_gone_or_silent_is_not_called_running(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(status_file(run / "collect-01234567"), record())
    assert "running" not in shown(run, capsys)  # nobody holds the run
    write_json(status_file(run / "collect-01234567"), record(now=time.time() - 1000))
    with busy(monkeypatch):
        assert "collect    begun" in shown(run, capsys)


def test_a_failed_stage_tells_how_it_ended_and_where_its_logs_are(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(status_file(run / "collect-01234567"), record(ended="UserError: the disk is full"))
    text = shown(run, capsys)
    assert "ended: UserError: the disk is full" in text
    assert str(logs_folder(run / "collect-01234567") / "attempt-2") in text


def test_a_run_without_such_a_file_is_shown_as_before(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(run, capsys)
    assert "collect    begun    2026-01-01 10:00:00" in text
    assert "render     not yet" in text


def test_a_run_in_a_store_is_shown_on_a_machine_that_has_nothing_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BLM_STORE", "BLM_HOME"):
        monkeypatch.setenv(name, "")  # put back in the end
    uri = f"file://{tmp_path}/store"
    monkeypatch.setenv("BLM_SCRATCH", str(tmp_path / "driver"))
    folder = depot.enter(uri) / "tiny"
    stage = folder / "collect-01234567"
    write_json(folder / "run.json", {"asked": "2026-01-01 10:00:00", "stages": {"collect": {"folder": stage.name}}})
    begun = {"stage": "collect", "begun": "2026-01-01 10:00:00", "attempts": 2, "wall_s": 12.0, "code": "x"}
    write_json(stage / "stage.json", begun)
    for path in (folder / "run.json", stage / "stage.json"):
        depot.keep(path)
    with watched(stage, "collect", attempt=2):
        print("[collect] 30/90 blocks")
    monkeypatch.setenv("BLM_SCRATCH", str(tmp_path / "elsewhere"))
    assert cli.main(["status", "tiny", "--root", uri]) == 0
    text = capsys.readouterr().out
    assert "30/90 (33%)" in text
    assert f"{uri}/tiny" in text
    assert "ended: finished" in text
