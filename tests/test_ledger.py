"""The file of results: what survives a kill, and what is cleaned up after one."""

from pathlib import Path

import pytest

from blm.model.errors import UserError
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
