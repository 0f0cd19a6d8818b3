"""The plan of kills, what of a run can be read while it runs, and what the comparison of two runs notices."""

import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blm.cluster import mirror
from blm.model.errors import UserError
from blm.pipelines import fence
from blm.pipelines.chaos.advance import advance
from blm.pipelines.chaos.comparison import compare
from blm.pipelines.chaos.counts import tallies
from blm.pipelines.chaos.processes import Victim, kill, workers_below
from blm.pipelines.chaos.results import Result, text
from blm.pipelines.chaos.schedule import Schedule, shares
from blm.pipelines.chaos.trial import Trial, run_trial
from blm.pipelines.workspace import BEGUN, MANIFEST, MANIFEST_FORMAT, content_hash, list_files, write_json

TINY_S = {"collect": 41.0, "render": 51.0, "corpora": 46.0, "stage1": 619.0, "baseline": 0.1, "report": 0.1}


def write_stage(root: Path, stage: str, files: dict[str, str]) -> Path:
    """A finished stage with these files."""
    folder = root / f"{stage}-00000000"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    listed = list_files(folder)
    known = {"format": MANIFEST_FORMAT, "stage": stage, "fingerprint": "", "inputs": {}, "summary": {}, "code": ""}
    write_json(folder / MANIFEST, known | {"wall_s": 1.0, "files": listed, "content": content_hash(listed)})
    return folder


def write_run(root: Path, *stages: str) -> None:
    """The record of a run of these stages."""
    write_json(root / "run.json", {"stages": {stage: {"folder": f"{stage}-00000000"} for stage in stages}})


# -------------------------------------------------------------------------------------------------------- the schedule


def test_every_stage_gets_a_kill_and_long_ones_most_of_them() -> None:
    counts = shares(100, TINY_S)
    assert sum(counts.values()) == 100
    assert {name for name, count in counts.items() if count == 0} == {"baseline", "report"}  # over in a moment
    assert counts["stage1"] > 70
    assert list(counts) == list(TINY_S)


def test_few_kills_go_to_the_longest_stages() -> None:
    assert shares(2, TINY_S) == {"collect": 0, "render": 1, "corpora": 0, "stage1": 1, "baseline": 0, "report": 0}


def test_a_seed_is_a_plan() -> None:
    def plan(seed: int) -> list:
        schedule, found = Schedule(30, TINY_S, seed=seed, every_s=3), []
        while planned := schedule.next("stage1"):
            found.append(planned)
            schedule.take("stage1")
        return found

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)
    assert {planned.kind for planned in plan(1)} == {"worker", "node", "driver"}


def test_the_first_kill_of_a_short_stage_comes_while_it_lasts() -> None:
    schedule = Schedule(20, {"stage1": 619.0, "report": 2.0}, seed=0, every_s=4)
    first = schedule.next("report")
    assert first is not None
    assert first.pause_s < 1.5 * 2.0


def test_what_a_stage_was_too_short_for_is_left_to_the_next_one() -> None:
    schedule = Schedule(20, {"render": 10.0, "corpora": 10.0}, seed=0, every_s=1)
    schedule.take("render")
    schedule.carry("corpora")
    assert schedule.next("render") is None
    assert schedule.left == 19


# ------------------------------------------------------------------------------------------------------ how far it is


def test_a_finished_file_is_progress_and_an_unfinished_or_a_note_is_not(tmp_path: Path) -> None:
    stages = ("collect", "render")
    assert advance(lambda: [tmp_path], stages).stage == "collect"
    write_run(tmp_path, *stages)
    write_stage(tmp_path, "collect", {"a.parquet": "x"})
    folder = tmp_path / "render-00000000"
    write_json(folder / BEGUN, {})
    for name in (".tmp-1-part", fence.OWNER):
        (folder / name).write_text("x")
    now = advance(lambda: [tmp_path], stages)
    assert (now.finished, now.stage, now.begun, now.newest_s) == (("collect",), "render", True, 0.0)
    (folder / "part").write_text("x")
    os.utime(folder / "part", (7.0, 7.0))
    assert advance(lambda: [tmp_path], stages).newest_s == 7.0


def test_looking_bears_with_folders_that_are_deleted_meanwhile(tmp_path: Path) -> None:
    write_run(tmp_path, "stage1")
    train = tmp_path / "stage1-00000000/train"
    ended = threading.Event()

    def checkpoints() -> None:
        while not ended.is_set():
            (train / "000001/shards").mkdir(parents=True)
            (train / "000001/shards/one").write_text("x")
            shutil.rmtree(train / "000001")

    thread = threading.Thread(target=checkpoints)
    thread.start()
    try:
        for _ in range(500):
            assert advance(lambda: [tmp_path], ("stage1",)).stage == "stage1"
            list(mirror._files(tmp_path))
    finally:
        ended.set()
        thread.join()


def test_only_working_processes_below_a_raylet_are_victims() -> None:
    child = subprocess.Popen(["sleep", "60"])  # below it there is nothing of Ray, whatever is below this process
    try:
        assert workers_below([child.pid]) == []
    finally:
        child.kill()
        child.wait()
    assert workers_below([2**22 + 1]) == []  # no such process


def test_a_process_that_has_ended_is_not_killed() -> None:
    child = subprocess.Popen(["sleep", "60"])
    victim = Victim(process=psutil.Process(child.pid), name="sleeper")
    assert kill(victim.process)
    child.wait()
    assert not kill(victim.process)


# ------------------------------------------------------------------------------------------------------ the comparison


def test_equal_runs_are_equal_and_times_beside_a_curve_do_not_matter(tmp_path: Path) -> None:
    for side, seconds in (("a", 1.0), ("b", 2.0)):
        curve = [{"step": 50, "loss": 0.5, "samples_per_s": seconds}]
        write_stage(tmp_path / side, "stage1", {"metrics.json": json.dumps({"curve": curve}), "model/w": "same"})
        write_stage(tmp_path / side, "evaluate", {"timings.jsonl": str(seconds), "episodes.jsonl": ""})
    folders = {stage: f"{stage}-00000000" for stage in ("stage1", "evaluate")}
    found = compare(tmp_path / "a", tmp_path / "b", folders)
    assert [one.equal for one in found] == [True, True]
    assert found[0].alike == ("metrics.json",)
    assert found[1].left_out == ("timings.jsonl",)


@pytest.mark.parametrize(
    ("name", "content"),
    [("metrics.json", '{"curve": [{"loss": 0.6}]}'), ("model/w", "other"), ("model/new", "")],
)
def test_another_curve_other_weights_and_one_more_file_are_differences(tmp_path: Path, name: str, content: str) -> None:
    files = {"metrics.json": '{"curve": [{"loss": 0.5}]}', "model/w": "same"}
    write_stage(tmp_path / "a", "stage1", files)
    write_stage(tmp_path / "b", "stage1", files | {name: content})
    (found,) = compare(tmp_path / "a", tmp_path / "b", {"stage1": "stage1-00000000"})
    assert not found.equal
    assert name in (*found.different, *found.extra)


def test_an_unfinished_run_is_not_compared(tmp_path: Path) -> None:
    write_stage(tmp_path / "a", "stage1", {"model/w": "same"})
    with pytest.raises(UserError, match="is not finished"):
        compare(tmp_path / "a", tmp_path / "b", {"stage1": "stage1-00000000"})


def test_lost_and_doubled_pieces_are_counted(tmp_path: Path) -> None:
    def line(seed: int) -> str:
        return json.dumps({"cell": "panda/PushCube", "seed": seed, "policy": "blm"}) + "\n"

    for side, seeds in (("a", (1, 2, 3)), ("b", (1, 1, 3))):
        write_stage(tmp_path / side, "evaluate", {"episodes.jsonl": "".join(map(line, seeds))})
        rendered = tmp_path / side / "render-00000000/lerobot/panda/meta/episodes/chunk-000/file-000.parquet"
        rendered.parent.mkdir(parents=True)
        pq.write_table(pa.table({"episode_index": [0, 1, 2]}), rendered)
        for file, ids in (("x", ["q1", "q2"]), ("y", ["q3"])):
            path = tmp_path / side / f"corpora-00000000/train/{file}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"id": ids if side == "a" else ids[:1]}), path)
    folders = {stage: f"{stage}-00000000" for stage in ("evaluate", "corpora", "render")}
    found = {tally.what: tally for tally in tallies(tmp_path / "a", tmp_path / "b", folders)}
    assert (found["rollouts"].lost, found["rollouts"].doubled) == (1, 1)
    assert (found["rendered episodes"].found, found["rendered episodes"].lost) == (3, 0)
    assert (found["conversations"].expected, found["conversations"].lost) == (3, 1)


def test_the_result_says_when_kills_were_left_over(tmp_path: Path) -> None:
    for side in ("a", "b"):
        write_stage(tmp_path / side, "stage1", {"model/w": "same"})
    made = {"number": 1, "stage": "stage1", "kind": "worker", "what": "RayTrainWorker", "at_s": 3.0, "back_s": 9.0}
    result = Result(
        planned=2,
        seed=0,
        kills=[made],
        undisturbed_s={"stage1": 10.0},
        disturbed_s={"stage1": 25.0},
        starts=1,
        gave_up=0,
        tallies=[],
        compared=compare(tmp_path / "a", tmp_path / "b", {"stage1": "stage1-00000000"}),
    )
    assert "before all kills were made: 1 of 2" in text(result)
    assert "15 s lost over 10 s of work" in text(result)
    assert result.to_json()["equal"]


def test_a_trial_is_not_continued_with_another_seed(tmp_path: Path) -> None:
    write_json(tmp_path / "state.json", {"kills": 5, "seed": 1, "every_s": 4.0, "root": str(tmp_path)})
    trial = Trial(
        folder=tmp_path,
        root=str(tmp_path),
        name="x",
        stages=("collect",),
        command=lambda *_: [],
        kills=5,
        seed=2,
        every_s=4.0,
    )
    with pytest.raises(UserError, match="choose another --out"):
        run_trial(trial, print)


# ----------------------------------------------------------------------------------------------------------- the fence


def test_only_the_last_driver_s_workers_may_save(tmp_path: Path) -> None:
    first = fence.claim(tmp_path)
    fence.check(first)
    second = fence.claim(tmp_path)
    fence.check(second)
    with pytest.raises(UserError, match="has taken over"):
        fence.check(first)
    assert list_files(tmp_path) == []
    fence.check(None)


# ----------------------------------------------------------------------------------------------------- what is promised


def test_every_test_that_the_guarantees_name_is_there() -> None:
    here = Path(__file__).parent
    page = (here.parent / "docs/guarantees.md").read_text()
    named = re.findall(r"`(test_\w+\.py)`(?:: ([\w, ]+))?", page)
    assert len(named) > 30
    for file, words in named:
        tests = re.findall(r"^def (test_\w+)", (here / file).read_text(), re.MULTILINE)
        for word in filter(None, map(str.strip, words.split(","))):
            assert any(word in test for test in tests), f"{file} has no test {word}"
