"""Whatever is in a file, nothing raises: damage costs records, not the run, and all that is there is counted."""

import json
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_foreign import add_member, llava_sample, put, read_all, write_webdataset
from small_fuzz import checked, likely, plausible, quick, samples

from blm.pipelines.datasets.chat import ChatRow
from blm.pipelines.datasets.readers import json_files
from blm.pipelines.datasets.readers.record import Rejected


@contextmanager
def blocks_of(size: int) -> Iterator[None]:
    """Files are looked through in blocks of so many bytes, which end anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "BLOCK", size)
        yield


@quick
@given(
    data=st.lists(plausible | likely | samples, max_size=4),
    cuts=st.integers(1, 400),
    lines=st.booleans(),
    block=st.integers(1, 60),
)
def test_all_samples_of_a_file_are_counted(data: list[Any], cuts: int, lines: bool, block: int) -> None:
    data = json.loads(json.dumps(data, default=repr))
    body = "\n".join(map(json.dumps, data)) if lines else json.dumps(data, indent=1)
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / ("a.jsonl" if lines else "a.json"), body)
        found = read_all(path, "llava", size=cuts)
        with blocks_of(block):
            assert read_all(path, "llava", size=cuts) == found
    assert len(found) == len(data)  # LLaVA's layout makes one conversation of a sample
    checked(found)


@quick
@given(
    samples=st.integers(1, 4),
    at=st.integers(0, 10_000),
    noise=st.binary(min_size=1, max_size=12)
    | st.sampled_from([b"\xff\xfe", b'"', b"{", b"]", b"\0", b"[" * 5000, b"1" * 5000]),
    cuts=st.integers(1, 400),
    lines=st.booleans(),
    block=st.integers(1, 60),
)
def test_damaged_json_costs_records_not_the_run(
    samples: int, at: int, noise: bytes, cuts: int, lines: bool, block: int
) -> None:
    given = [llava_sample(k, "good.jpg") for k in range(samples)]
    text = ("\n".join(map(json.dumps, given)) if lines else json.dumps(given)).encode()
    at = at % len(text)
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / ("a.jsonl" if lines else "a.json"), text[:at] + noise + text[at:])
        found = checked(read_all(path, "llava", size=cuts))
        with blocks_of(block):
            assert checked(read_all(path, "llava", size=cuts)) == found
        assert checked(read_all(path, "llava")) == found
        cut = checked(read_all(put(path, text[:at]), "llava", size=cuts))
    assert found
    if lines and b"\n" not in noise:
        assert len(found) == samples
        assert sum(isinstance(one, Rejected) for one in found) <= 1
    assert sum(isinstance(one, Rejected) for one in cut) <= 1
    assert len(cut) <= samples


@quick
@given(at=st.integers(0, 60_000), noise=st.binary(max_size=600), truncate=st.booleans(), cuts=st.integers(1, 30_000))
def test_damaged_tars_cost_records_not_the_run(at: int, noise: bytes, truncate: bool, cuts: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_webdataset(Path(folder))
        data = path.read_bytes()
        at = at % len(data)
        put(path, data[:at] if truncate else data[:at] + noise + data[at + len(noise) :])
        checked(read_all(path, "webdataset", size=cuts))


def test_tars_with_links_and_absolute_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        good = json.dumps({"query": "What?", "response": "That."}).encode()
        add_member(tar, "0.json", good)
        add_member(tar, "/etc/1.json", good)
        add_member(tar, "../2.json", good)
        add_member(tar, "3.json", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add_member(tar, "4.json", b"", type=tarfile.LNKTYPE, linkname="0.json")
        add_member(tar, "5.json", b"", type=tarfile.FIFOTYPE)
        add_member(tar, "6.json", good)
    results = checked(read_all(path, "webdataset"))
    reasons = [one.reason if isinstance(one, Rejected) else "" for one in results]
    assert reasons == ["", "media_outside_root", "media_outside_root", *["archive_damaged"] * 3, ""]


@quick
@given(rows=st.lists(plausible | likely, min_size=1, max_size=3), at=st.integers(0, 20_000), damage=st.booleans())
def test_parquet_of_anything_is_read_or_rejected(rows: list[Any], at: int, damage: bool) -> None:
    rows = json.loads(json.dumps(rows, default=repr))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        try:
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):  # rows of different types are no table
            return
        whole = checked(read_all(path, "parquet", size=1))
        assert len(whole) == len(rows)
        if damage:
            data = bytearray(path.read_bytes())
            data[at % len(data)] ^= 0xFF
            put(path, bytes(data))
            checked(read_all(path, "parquet", size=1))


def test_bombs_are_refused(tmp_path: Path) -> None:
    deep = put(tmp_path / "deep.jsonl", '{"messages": ' + "[" * 100_000 + "]" * 100_000 + "}\n{}")
    assert [one.reason for one in checked(read_all(deep, "openai"))] == ["malformed_json", "no_messages"]
    number = put(tmp_path / "number.jsonl", '{"id": ' + "9" * 10_000 + "}")
    assert [one.reason for one in checked(read_all(number, "openai"))] == ["malformed_json"]
    long = put(tmp_path / "long.jsonl", json.dumps({"query": "x" * 100_000, "response": "y"}))
    assert [one.reason for one in checked(read_all(long, "instructions"))] == ["text_too_long"]
    many = put(tmp_path / "many.json", json.dumps([llava_sample(0, ["good.jpg"] * 5000, "What?")]))
    assert [one.reason for one in checked(read_all(many, "llava"))] == ["too_many_media"]


def test_a_line_that_never_ends_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "MOST_RECORD_BYTES", 1000)
    body = json.dumps({"query": "x" * 5000, "response": "y"}) + "\n" + json.dumps({"query": "What?", "response": "y"})
    first, second = checked(read_all(put(tmp_path / "a.jsonl", body), "instructions"))
    assert isinstance(first, Rejected)
    assert first.reason == "record_too_large"
    assert isinstance(second, ChatRow)
