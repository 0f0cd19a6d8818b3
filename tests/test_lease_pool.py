"""The pool whose actors have several pieces of work in hand, with real actors that really hang and die."""

import ctypes
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from blm.actors.lease_pool import LeasePool
from blm.actors.leases import Leases, Progress
from blm.model.errors import UserError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
SLOTS = 3
Item = tuple[int, str]


class Squares:
    """Squares numbers, `SLOTS` at a time, with a factor it is begun with. Some words make it misbehave."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._factor = 0
        self._backlog: list[Item] = []

    def begin(self, factor: int) -> int:
        if factor == 0:
            raise UserError("nothing to multiply with")
        self._factor, self._backlog = factor, []
        (self._folder / f"process-{os.getpid()}").touch()
        return os.getpid()

    def advance(self, items: Sequence[Item]) -> Progress[Item, tuple[int, int]]:
        self._backlog += items
        assert len(self._backlog) <= SLOTS + 2, "more than slots and backlog"
        now, self._backlog = self._backlog[:SLOTS], self._backlog[SLOTS:]
        for number, word in now:
            first_time = not (self._folder / f"seen-{number}").exists()
            (self._folder / f"seen-{number}").touch()
            if word == "dies" or (word == "dies once" and first_time):
                os._exit(1)
            if word == "hangs once" and first_time:
                ctypes.PyDLL(None).sleep(600)  # with Python's lock: nothing in this process can notice
            while word == "waits for company" and len(list(self._folder.glob("process-*"))) < 2:
                time.sleep(0.02)
            if word == "complains":
                raise UserError("this cannot be squared")
        time.sleep(0.02)
        done = [((number, word), (self._factor * number**2, os.getpid())) for number, word in now]
        return Progress(done=done, looks=len(now), work_s=0.02)


class Unborn:
    """Cannot be made."""

    def __init__(self) -> None:
        raise OSError("no such thing")

    def begin(self, start: object) -> int:
        return 0


def pool_of(folder: Path, actors: int = 2, limit_s: float = 30) -> LeasePool[Item, tuple[int, int]]:
    remote = ray.remote(Squares).options(num_cpus=0.1)
    return LeasePool(lambda: remote.remote(str(folder)), actors=actors, slots=SLOTS, limit_s=limit_s)


def drain(pool: LeasePool[Any, Any], items: Sequence[Item], factor: int = 1) -> tuple[dict[int, Any], dict[int, str]]:
    """Results and what was lost, by number. Nothing comes twice."""
    done: dict[int, Any] = {}
    lost: dict[int, str] = {}
    for batch in pool.run(factor, Leases(items, group=lambda item: item[0] // 10, together=2, alone=2)):
        for (number, _), result in batch.done:
            assert number not in done
            done[number] = result
        lost |= {number: why for (number, _), why in batch.lost}
    return done, lost


def test_actors_share_the_work_and_stay_for_the_next(tmp_path: Path) -> None:
    with pool_of(tmp_path) as pool:
        first, _ = drain(pool, [(number, "waits for company") for number in range(60)])
        second, _ = drain(pool, [(number, "") for number in range(60)], factor=5)
        pool.size = 1
        third, _ = drain(pool, [(number, "") for number in range(30)])
    assert {number: result for number, (result, _) in first.items()} == {n: n * n for n in range(60)}
    assert {number: result for number, (result, _) in second.items()} == {n: 5 * n * n for n in range(60)}
    processes = [{process for _, process in done.values()} for done in (first, second, third)]
    assert len(processes[0]) == 2
    assert processes[1] <= processes[0]
    assert len(processes[2]) == 1


def test_what_dies_or_hangs_is_replaced_and_its_work_done_by_others(tmp_path: Path) -> None:
    words = {5: "dies once", 17: "hangs once"}
    with pool_of(tmp_path, limit_s=4) as pool:
        done, lost = drain(pool, [(number, words.get(number, "")) for number in range(30)])
        assert pool.deaths == 2
    assert {number: result for number, (result, _) in done.items()} == {n: n * n for n in range(30)}
    assert not lost
    processes = [int(path.name.partition("-")[2]) for path in tmp_path.glob("process-*")]
    assert len(processes) >= 3
    deadline_s = time.monotonic() + 20
    while any(map(psutil.pid_exists, processes)):  # the one that hung is not only given up but gone
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_what_kills_every_actor_is_lost_and_takes_nothing_along(tmp_path: Path) -> None:
    with pool_of(tmp_path) as pool:
        done, lost = drain(pool, [(number, "dies" if number == 4 else "") for number in range(12)])
        assert 3 <= pool.deaths <= 4, "in company, and twice alone"
    assert sorted(done) == [number for number in range(12) if number != 4]
    assert list(lost) == [4]
    assert lost[4]


def test_what_a_worker_raises_is_raised(tmp_path: Path) -> None:
    with pool_of(tmp_path, actors=1) as pool:
        with pytest.raises(UserError, match=r"^this cannot be squared$"):
            drain(pool, [(1, "complains")])
        with pytest.raises(UserError, match=r"^nothing to multiply with$"):
            drain(pool, [(1, "")], factor=0)
        assert drain(pool, [(3, "")])[0][3][0] == 9
        assert pool.deaths == 0


def test_an_actor_that_cannot_be_made_is_an_error_at_once() -> None:
    remote = ray.remote(Unborn).options(num_cpus=0.1)
    pool = LeasePool[Item, Any](lambda: remote.remote(), actors=1, slots=1, limit_s=30)
    with pool, pytest.raises(RuntimeError, match="no such thing"):
        drain(pool, [(1, "")])
