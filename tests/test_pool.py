"""The work pool, with real actors that really die."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.actor import ActorHandle

from blm.actors.pool import Outcome, WorkPool
from blm.actors.sim.watchdog import Watchdog
from blm.model.errors import UserError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


class Worker:
    """Squares numbers. Some words in an item make it misbehave."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        (self._folder / f"process-{os.getpid()}").touch()
        self._watchdog = Watchdog(check_every_s=0.05)

    def work(self, item: tuple[int, str]) -> tuple[int, int]:
        number, behaviour = item
        seen = self._folder / f"seen-{number}"
        first_time = not seen.exists()
        seen.touch()
        while behaviour == "waits for company" and len(list(self._folder.glob("process-*"))) < 2:
            time.sleep(0.02)
        if behaviour == "always dies" or (behaviour == "dies once" and first_time):
            os._exit(1)
        if behaviour == "hangs once" and first_time:
            with self._watchdog.guard("a nap", 0.2):
                time.sleep(60)
        if behaviour == "complains":
            raise UserError("this cannot be squared")
        if behaviour == "breaks":
            raise ZeroDivisionError("a bug")
        if behaviour == "takes long":
            (self._folder / "pid").write_text(str(os.getpid()))
            time.sleep(60 if first_time else 0)
        return number * number, os.getpid()


class Unborn:
    """Cannot be made."""

    def __init__(self) -> None:
        raise OSError("no such thing")

    def work(self, item: object) -> object:
        return item


def _pool(folder: Path, *, actors: int = 2, attempts: int = 3) -> WorkPool[tuple[int, str], tuple[int, int]]:
    remote = ray.remote(Worker).options(num_cpus=0.1)
    return WorkPool(lambda: remote.remote(str(folder)), actors=actors, attempts=attempts)


def _drain(pool: WorkPool[Any, Any]) -> dict[int, Outcome[Any, Any]]:
    outcomes = {}
    while pool.pending:
        outcome = pool.next()
        assert outcome is not None
        outcomes[outcome.item[0]] = outcome
    return outcomes


def test_every_item_comes_back_once_and_actors_share_the_work(tmp_path: Path) -> None:
    with _pool(tmp_path) as pool:
        for number in range(40):
            pool.submit((number, "" if number else "waits for company"))
        outcomes = _drain(pool)
        assert len(pool.actors()) == 2
    assert {number: one.result[0] for number, one in outcomes.items()} == {n: n * n for n in range(40)}
    assert all(one.error is None and one.attempts == 1 for one in outcomes.values())
    assert len({one.result[1] for one in outcomes.values()}) == 2


def test_an_item_whose_actor_dies_is_done_by_another(tmp_path: Path) -> None:
    with _pool(tmp_path) as pool:
        for number in range(6):
            pool.submit((number, "dies once" if number == 2 else "hangs once" if number == 4 else ""))
        outcomes = _drain(pool)
        assert pool.deaths == 2
    assert {number: one.result[0] for number, one in outcomes.items()} == {n: n * n for n in range(6)}
    assert {number for number, one in outcomes.items() if one.attempts == 2} == {2, 4}


def test_an_item_that_kills_every_actor_fails_alone(tmp_path: Path) -> None:
    with _pool(tmp_path, attempts=2) as pool:
        for number in range(5):
            pool.submit((number, "always dies" if number == 1 else ""))
        outcomes = _drain(pool)
        assert pool.deaths == 2
    assert outcomes[1].result is None
    assert outcomes[1].attempts == 2
    assert outcomes[1].error
    assert [outcomes[n].result[0] for n in (0, 2, 3, 4)] == [0, 4, 9, 16]


def test_an_actor_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    with _pool(tmp_path) as pool:
        pool.submit((7, "takes long"))
        pool.submit((8, ""))
        assert pool.next() is not None
        assert pool.next(timeout_s=0.1) is None, "seven is still asleep"
        deadline_s = time.monotonic() + 20
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        outcome = pool.next(timeout_s=30)
        assert outcome is not None
        assert outcome.result is not None
        assert outcome.result[0] == 49
        assert outcome.attempts == 2


def test_an_exception_of_the_work_is_raised_and_the_pool_can_go_on(tmp_path: Path) -> None:
    with _pool(tmp_path, actors=1) as pool:
        pool.submit((1, "complains"))
        with pytest.raises(UserError, match=r"^this cannot be squared$"):
            pool.next()
        pool.submit((2, "breaks"))
        with pytest.raises(ZeroDivisionError, match="a bug"):
            pool.next()
        pool.submit((3, ""))
        outcome = pool.next()
        assert outcome is not None
        assert outcome.result is not None
        assert outcome.result[0] == 9
        assert pool.deaths == 0


def test_an_actor_that_cannot_be_made_is_an_error_at_once() -> None:
    with WorkPool(lambda: ray.remote(Unborn).options(num_cpus=0.1).remote(), actors=1) as pool:
        pool.submit(1)
        with pytest.raises(RuntimeError, match="no such thing"):
            pool.next()


def test_room_is_bounded_by_the_number_of_actors(tmp_path: Path) -> None:
    with _pool(tmp_path) as pool:
        submitted = 0
        while pool.has_room:
            pool.submit((submitted, ""))
            submitted += 1
        assert submitted == 4
        _drain(pool)


def test_closing_a_pool_ends_its_actors(tmp_path: Path) -> None:
    pool = _pool(tmp_path, actors=1)
    pool.submit((1, ""))
    outcome = pool.next()
    assert outcome is not None
    assert outcome.result is not None
    (actor,) = pool.actors()
    pool.close()
    assert isinstance(actor, ActorHandle)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.work.remote((2, "")))
