"""The file of results: what survives a kill, and what is cleaned up after one."""

import json
from pathlib import Path

import pytest

from blm.actors.sim.outcome import EpisodeResult, EpisodeTiming
from blm.model.errors import UserError
from blm.pipelines.evaluation.books import EPISODES, TIMINGS, Books
from blm.pipelines.ledger import Ledger

KEY = ("cell", "seed")


def record(seed: int, **values: object) -> dict[str, object]:
    return {"cell": "a/T", "seed": seed, **values}


def test_what_was_added_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    with Ledger(tmp_path / "out" / "r.jsonl", KEY) as ledger:
        ledger.add([record(1, x=0.5), record(2)])
        ledger.add([record(3)])
    with Ledger(tmp_path / "out" / "r.jsonl", KEY) as again:
        assert [r["seed"] for r in again.records] == [1, 2, 3]
        assert ("a/T", 1) in again
        assert ("a/T", 9) not in again
        assert again["a/T", 1]["x"] == 0.5


def test_a_torn_last_line_is_cut_off_and_the_file_goes_on_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"cell":"a/T","seed":1}\n{"cell":"a/T","se')
    with Ledger(path, KEY) as ledger:
        assert len(ledger) == 1
        ledger.add([record(2)])
    assert path.read_text() == '{"cell":"a/T","seed":1}\n{"cell":"a/T","seed":2}\n'


def test_of_doubles_the_last_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"cell":"a/T","seed":1,"x":1}\n{"cell":"a/T","seed":1,"x":2}\n')
    with Ledger(path, KEY) as ledger:
        assert [r["x"] for r in ledger.records] == [2]
    assert path.read_text() == '{"cell":"a/T","seed":1,"x":2}\n'


def test_records_not_to_be_kept_and_dropped_ones_leave_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Ledger(path, KEY) as ledger:
        ledger.add([record(seed, error=seed == 2) for seed in (1, 2, 3)])
    with Ledger(path, KEY, keep=lambda r: not r["error"]) as ledger:
        assert [r["seed"] for r in ledger.records] == [1, 3]
        ledger.drop([("a/T", 3), ("a/T", 77)])
        ledger.add([record(4)])
    with Ledger(path, KEY) as ledger:
        assert [r["seed"] for r in ledger.records] == [1, 4]


@pytest.mark.parametrize("line", ["nonsense", '{"cell":"a/T"}', "[1,2]"])
def test_a_file_of_something_else_is_refused_by_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"cell":"a/T","seed":1}\n' + line + "\n")
    with pytest.raises(UserError, match=r"r\.jsonl line 2"):
        Ledger(path, KEY)


def test_lines_can_be_put_in_an_order_that_tells_nothing_of_how_they_came(tmp_path: Path) -> None:
    for name, seeds in (("a", (3, 1, 2)), ("b", (1, 2, 3))):
        with Ledger(tmp_path / name, KEY) as ledger:
            ledger.add([record(seed) for seed in seeds])
            ledger.sort(lambda r: r["seed"])
            ledger.add([record(9)])
            assert [r["seed"] for r in ledger.records] == [1, 2, 3, 9]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def ended(seed: int, *, wall_s: float, error: bool = False) -> tuple[EpisodeResult, EpisodeTiming]:
    result = EpisodeResult(
        cell="a/T", seed=seed, policy="p", instruction="go", success=False, failure=None, error=error
    )
    return result, EpisodeTiming(cell="a/T", seed=seed, policy="p", wall_s=wall_s)


def test_an_episode_that_is_tried_again_has_one_outcome_and_one_timing(tmp_path: Path) -> None:
    with Books(tmp_path) as books:
        books.add([ended(1, wall_s=1.0), ended(2, wall_s=1.0, error=True)])
        with pytest.raises(AssertionError, match="is there already"):
            books.add([ended(1, wall_s=2.0)])
    with (tmp_path / TIMINGS).open("a") as file:  # killed after the timing, before the outcome
        file.write('{"cell":"a/T","seed":3,"policy":"p","wall_s":7.0}\n')
    with Books(tmp_path) as books:
        books.add([ended(3, wall_s=3.0), ended(2, wall_s=3.0)])
        books.complete(lambda r: r["seed"])
    for name in (EPISODES, TIMINGS):
        assert [json.loads(line)["seed"] for line in (tmp_path / name).read_text().splitlines()] == [1, 2, 3]
    assert [json.loads(line)["wall_s"] for line in (tmp_path / TIMINGS).read_text().splitlines()] == [1.0, 3.0, 3.0]
