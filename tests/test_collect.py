"""The collect stage: complete, repeatable, resumable."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from blm.actors.sim.demonstration import Demonstration
from blm.actors.sim.episode import Episode, read_episodes
from blm.actors.sim.failures import FailureReason
from blm.actors.sim.world import WorldConfig, parse_cell
from blm.model.errors import UserError
from blm.pipelines.collect import CollectConfig, collect
from blm.pipelines.collect_cell import CellProgress, Limits
from blm.pipelines.tracking import Tracker
from blm.pipelines.workspace import ResourceConfig, StageContext, content_hash, list_files

CELL = parse_cell("panda/PushCube")
SMALL = CollectConfig(episodes_per_cell=10, seeds_per_item=4)


def _context(out: Path, actors: int = 2, cells: tuple[str, ...] = WorldConfig().cells) -> StageContext:
    out.mkdir(parents=True, exist_ok=True)
    return StageContext(
        out=out,
        inputs={},
        world=WorldConfig(cells=cells),
        seed=0,
        tracker=Tracker(),
        resources=ResourceConfig(actors=actors),
    )


def _hash(out: Path) -> str:
    return content_hash(list_files(out))


# ---- bookkeeping, without a simulator


def _limits(first_seed: int, wanted: int, most_seeds: int) -> Limits:
    return Limits(first_seed=first_seed, block_size=4, wanted=wanted, most_seeds=most_seeds)


def _outcome(seed: int, *, success: bool) -> Demonstration:
    if not success:
        reasons = (FailureReason.EXECUTION_FAILED, FailureReason.IK_UNREACHABLE)
        return Demonstration(seed=seed, episode=None, first_plan=False, failures=reasons)
    rows = {name: np.full((4, 3), seed, np.float32) for name in ("states", "proprio", "object_positions")}
    episode = Episode(
        robot=CELL.robot,
        task=CELL.task,
        seed=seed,
        geometry="lite",
        instruction="push",
        control_hz=20,
        actions=np.zeros((3, 3), np.float32),
        success=True,
        **rows,
    )
    return Demonstration(seed=seed, episode=episode, first_plan=True, failures=())


def _succeeds(seed: int) -> bool:
    return seed % 3 != 1


def _work_off(one: CellProgress, order: np.random.Generator, stop_after: int | None = None) -> None:
    """Does items in random order, some of them under way at the same time."""
    under_way = []
    done = 0
    while True:
        while len(under_way) < 3 and (item := one.next_item()) is not None:
            under_way.append(item)
        if not under_way or done == stop_after:
            return
        item = under_way.pop(order.integers(len(under_way)))
        one.take([_outcome(seed, success=_succeeds(seed)) for seed in item.seeds])
        done += 1


def _kept(out: Path) -> list[int]:
    files = sorted((out / "episodes" / CELL.slug).glob("*.parquet"))
    return [episode.seed for file in files for episode in read_episodes(file)]


@pytest.mark.parametrize("shuffle", range(5))
def test_kept_are_the_first_successes_in_seed_order_whatever_the_order_of_work(tmp_path: Path, shuffle: int) -> None:
    limits = _limits(100, 10, 60)
    one = CellProgress.resume(tmp_path / "a", CELL, limits)
    _work_off(one, np.random.default_rng(shuffle))
    assert one.finished
    one.trim()
    expected = [seed for seed in range(100, 160) if _succeeds(seed)][:10]
    assert _kept(tmp_path / "a") == expected
    summary = one.summary()
    assert summary["kept"] == 10
    assert summary["tried"] == expected[-1] - 100 + 1
    assert summary["failures"] == {"ik_unreachable": summary["tried"] - 10}
    in_order = CellProgress.resume(tmp_path / "b", CELL, limits)
    _work_off(in_order, np.random.default_rng(0))
    in_order.trim()
    assert _hash(tmp_path / "a") == _hash(tmp_path / "b")


def test_a_cell_goes_on_from_its_files_and_trimming_twice_changes_nothing(tmp_path: Path) -> None:
    limits = _limits(0, 10, 60)
    first = CellProgress.resume(tmp_path / "a", CELL, limits)
    _work_off(first, np.random.default_rng(1), stop_after=2)
    assert not first.finished
    second = CellProgress.resume(tmp_path / "a", CELL, limits)
    assert len(second.taken) == 8
    _work_off(second, np.random.default_rng(2))
    second.trim()
    whole = _hash(tmp_path / "a")
    third = CellProgress.resume(tmp_path / "a", CELL, limits)
    assert third.finished
    assert third.next_item() is None
    third.trim()
    assert _hash(tmp_path / "a") == whole


def test_a_block_whose_workers_died_is_tried_seed_by_seed(tmp_path: Path) -> None:
    one = CellProgress.resume(tmp_path, CELL, _limits(0, 4, 60))
    item = one.next_item()
    assert item is not None
    assert item.seeds == (0, 1, 2, 3)
    one.retry_singly(item)
    for seed in range(4):
        single = one.next_item()
        assert single is not None
        assert single.seeds == (seed,)
        assert not list(tmp_path.rglob("*.parquet")), "a block is written when all of it is known"
        one.take([_outcome(seed, success=seed != 2)])
    assert one.kept == 3
    following = one.next_item()
    assert following is not None
    assert following.seeds == (4, 5, 6, 7)


def test_a_gap_left_by_a_killed_process_is_filled(tmp_path: Path) -> None:
    one = CellProgress.resume(tmp_path, CELL, _limits(0, 6, 60))
    for block in (0, 8, 12):
        one.take([_outcome(seed, success=True) for seed in range(block, block + 4)])
    resumed = CellProgress.resume(tmp_path, CELL, _limits(0, 6, 60))
    assert not resumed.finished
    item = resumed.next_item()
    assert item is not None
    assert item.seeds == (4, 5, 6, 7)
    assert resumed.next_item() is None
    resumed.take([_outcome(seed, success=True) for seed in item.seeds])
    assert resumed.finished
    resumed.trim()
    assert _kept(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_a_cell_that_never_succeeds_is_given_up(tmp_path: Path) -> None:
    one = CellProgress.resume(tmp_path, CELL, _limits(0, 3, 12))
    while (item := one.next_item()) is not None:
        one.take([_outcome(seed, success=False) for seed in item.seeds])
    assert one.finished
    assert one.kept == 0
    assert one.failures() == {"ik_unreachable": 12}


def test_a_damaged_block_is_one_clear_line(tmp_path: Path) -> None:
    one = CellProgress.resume(tmp_path, CELL, _limits(0, 3, 12))
    one.take([_outcome(seed, success=True) for seed in range(4)])
    (file,) = tmp_path.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="delete it"):
        CellProgress.resume(tmp_path, CELL, _limits(0, 3, 12))


@pytest.mark.parametrize(
    "options",
    [
        {"episodes_per_cell": 0},
        {"seeds_per_item": 0},
        {"first_seed": -1},
        {"first_seed": 999_990},
        {"disturbed_share": 1.5},
        {"speed": 0.0},
        {"retries": -1},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"collect.{next(iter(options))}"):
        CollectConfig(**options)  # type: ignore[arg-type]


# ---- the stage itself, with real workers


@pytest.fixture(scope="module")
def reference(ray_cluster: object, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    out = tmp_path_factory.mktemp("reference") / "collect-0000"
    return out, collect(SMALL, _context(out, actors=2))


@pytest.mark.ray
def test_the_stage_keeps_what_was_asked_for_and_says_so(reference: tuple[Path, dict]) -> None:  # type: ignore[type-arg]
    out, summary = reference
    assert summary["episodes"] == 20
    assert json.loads((out / "failures.json").read_text()) == {"panda/PushCube": {}, "panda/PickCube": {}}
    for name in WorldConfig().cells:
        row = summary["cells"][name]
        assert row["kept"] == 10
        assert row["success_rate"] >= 0.95
        files = sorted((out / "episodes" / parse_cell(name).slug).glob("*.parquet"))
        assert [file.stem for file in files] == [f"seeds-{4 * i:07d}-{4 * i + 3:07d}" for i in range(3)]
        episodes = [episode for file in files for episode in read_episodes(file)]
        assert [episode.seed for episode in episodes] == list(range(10))
        assert all(episode.success and episode.cell == name for episode in episodes)
    assert summary["episodes_per_core_minute"] > 20


@pytest.mark.ray
def test_a_finished_stage_does_nothing_when_called_again(reference: tuple[Path, dict]) -> None:  # type: ignore[type-arg]
    out, summary = reference
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    again = collect(SMALL, _context(out))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before
    assert again["cells"] == summary["cells"]
    assert again["wall_s"] < 2


def _demonstrators() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "Demonstrator.work" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.ray
def test_killed_workers_and_lost_blocks_leave_the_same_files(
    reference: tuple[Path, dict],  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    out = tmp_path / "collect-0001"
    shutil.copytree(reference[0], out)
    lost = [out / "episodes" / parse_cell(name).slug / "seeds-0000004-0000007.parquet" for name in WorldConfig().cells]
    for path in lost:
        path.unlink()
    (out / "episodes" / CELL.slug / ".tmp-1234-seeds.parquet").write_bytes(b"left by a killed process")
    (out / "failures.json").unlink()
    earlier = {process.pid for process in _demonstrators()}
    killed: list[int] = []

    def kill_one() -> None:
        deadline_s = time.monotonic() + 60
        while not killed and time.monotonic() < deadline_s:
            for process in _demonstrators():
                if process.pid not in earlier:
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    summary = collect(SMALL, _context(out, actors=1))
    killer.join()
    assert killed
    assert summary["worker_deaths"] == 1
    assert _hash(out) == _hash(reference[0])
    assert not list(out.rglob(".tmp-*"))


@pytest.mark.ray
def test_other_seeds_give_other_episodes(reference: tuple[Path, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    config = dataclasses.replace(SMALL, episodes_per_cell=2, first_seed=500)
    collect(config, _context(tmp_path / "collect-0003", actors=1, cells=(CELL.name,)))
    (file,) = (tmp_path / "collect-0003").rglob("*.parquet")
    ours, theirs = read_episodes(file)[0], read_episodes(sorted(reference[0].rglob("*.parquet"))[0])[0]
    assert ours.seed == 500
    assert not np.array_equal(ours.states[0], theirs.states[0])
