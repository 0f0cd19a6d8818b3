"""The whole ingestion of small corpora: what comes out, what is refused and counted, and that nothing else decides."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_ingest import bad_corpus, jpeg, looking, talking, write_llava
from small_stages import folder_hash

from blm.model.errors import UserError
from blm.model.prompts import SYSTEM_PROMPTS
from blm.pipelines.cli import main
from blm.pipelines.datasets.chat import ChatRow, chat_turn, iterate_chat, write_chat
from blm.pipelines.ingest.flow import forget_parts, ingest
from blm.pipelines.ingest.options import IngestConfig, SourceConfig
from blm.pipelines.ingest.parts import FILE_BYTES

PIECE_MB = 0.002
"""So that even a small corpus is many pieces."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bad_corpus(tmp_path_factory.mktemp("foreign") / "corpus")


def config(path: Path, name: str = "foreign", *, piece_mb: float = PIECE_MB, **options: Any) -> IngestConfig:
    of_source = {key: options.pop(key) for key in list(options) if key not in IngestConfig.__dataclass_fields__}
    given = {"max_rejected_share": 0.5, "piece_mb": piece_mb} | options
    return IngestConfig(sources=(SourceConfig(name=name, path=path, **of_source),), **given)


def run(options: IngestConfig, out: Path, *, workers: int = 0, own: Path | None = None) -> dict[str, Any]:
    reports = ingest(options, out, workers=workers, progress=lambda text: None, own=own)
    forget_parts(out)
    return reports


def assert_all_counted(report: dict[str, Any]) -> None:
    gone = report["rejected"] + sum(report["duplicates"].values()) + sum(report["decontaminated"].values())
    assert report["records"] == sum(report["kept"].values()) + gone
    assert sum(report["rejected_by_reason"].values()) == report["rejected"]


def test_every_record_becomes_a_row_or_is_counted_with_its_reason(corpus, tmp_path):
    report = run(config(corpus), tmp_path)["foreign"]
    assert report["format"] == "llava"
    assert "conversations" in report["detected"]
    assert report["pieces"] > 5
    assert report["records"] == 40 + 20 + 5 + 4 + 2 + 3 + 2 + 1
    assert report["duplicates"] == {"exact": 5, "near": 1}
    assert report["kept"] == {"train": 61, "test": 0}
    expected = {"media_missing": 4, "media_outside_root": 1, "media_is_url": 1, "image_unreadable": 1}
    assert expected.items() <= report["rejected_by_reason"].items()
    assert_all_counted(report)
    rows = list(iterate_chat(tmp_path / "train"))
    assert len(rows) == len({row.id for row in rows}) == 61
    assert {row.source for row in rows} == {row.category for row in rows} == {"foreign"}
    first = rows[0]
    assert first.messages == chat_turn("<image>\nWhat lies in field 0 of the board?", "Thing number 0 lies there.")
    assert first.images == (jpeg(0),)
    assert json.loads((tmp_path / "ingest/foreign.json").read_text()) == report
    assert not (tmp_path / "parts/ingest").exists()


def test_the_quarantine_tells_where_why_and_what(corpus, tmp_path):
    report = run(config(corpus), tmp_path)["foreign"]
    lines = [
        json.loads(line)
        for path in sorted((tmp_path / "quarantine/foreign").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len(lines) == report["rejected"]
    outside = next(line for line in lines if line["reason"] == "media_outside_root")
    assert "llava.json" in outside["where"]
    assert "../secret.jpg" in str(outside["record"])
    assert "field 910" in str(outside["record"])
    assert all(len(json.dumps(line)) < 4000 and line["record"] for line in lines)


def test_too_many_bad_records_end_the_run_with_the_commonest_reason(corpus, tmp_path):
    with pytest.raises(UserError) as error:
        run(config(corpus, max_rejected_share=0.1), tmp_path)
    assert "source foreign: 10 of 77 records were refused" in str(error.value)
    assert "4 media_missing (a file that does not exist)" in str(error.value)
    assert str(tmp_path / "quarantine/foreign") in str(error.value)
    assert run(config(corpus, max_rejected_share=0.2), tmp_path)["foreign"]["rejected"] == 10


def test_pieces_decide_neither_which_rows_come_out_nor_their_order(corpus, tmp_path):
    options = {"holdout": 0.2}
    run(config(corpus, **options), tmp_path / "many")
    run(config(corpus, piece_mb=1.0, **options), tmp_path / "one")
    for split in ("train", "test"):
        assert list(iterate_chat(tmp_path / "many" / split)) == list(iterate_chat(tmp_path / "one" / split))


@pytest.mark.ray
def test_workers_and_an_interruption_change_no_byte(corpus, tmp_path, ray_cluster):
    options = config(corpus, holdout=0.2)
    run(options, tmp_path / "none")
    for workers in (1, 2):
        run(options, tmp_path / str(workers), workers=workers)
        assert folder_hash(tmp_path / str(workers)) == folder_hash(tmp_path / "none")
    # What a kill leaves behind: every third piece unfinished, one of them half written.
    broken = tmp_path / "killed"
    ingest(options, broken, workers=0, progress=lambda text: None)
    markers = sorted((broken / "parts/ingest/foreign").glob("*.json"))
    for marker in markers[::3]:
        marker.unlink()
    markers[0].with_name("00000-00.parquet").write_bytes(b"PAR1 half")
    for split in ("train", "test"):
        (broken / split / "foreign-00000.parquet").unlink(missing_ok=True)
    said: list[str] = []
    ingest(options, broken, workers=2, progress=said.append)
    assert any(f"of {len(markers)} pieces were read before" in line for line in said)
    forget_parts(broken)
    assert folder_hash(broken) == folder_hash(tmp_path / "none")


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path, ray_cluster, capsys):
    path = write_llava(tmp_path / "corpus", [looking(i % 300) | {"id": i} for i in range(1500)], range(300))
    words = ["--out", str(tmp_path / "out"), "--workers", "2", "--config", str(tmp_path / "options.yaml")]
    (tmp_path / "options.yaml").write_text(f"piece_mb: 0.01\nsources: [{{name: foreign, path: {path}}}]\n")
    command = [sys.executable, "-m", "blm.pipelines.cli", "ingest", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    parts = tmp_path / "out/parts/ingest/foreign"
    deadline_s = time.monotonic() + 120
    while len(list(parts.glob("*.json"))) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert parts.exists()
    assert not (tmp_path / "out/ingest/foreign.json").exists(), "it was killed before its end"
    assert main(["ingest", *words]) == 0
    printed = capsys.readouterr().out
    assert "pieces were read before" in printed
    assert json.loads(printed.splitlines()[-1])["foreign"]["records"] == 1500
    run(config(path, piece_mb=0.01), tmp_path / "whole")
    assert folder_hash(tmp_path / "out") == folder_hash(tmp_path / "whole")


def test_other_options_begin_anew(corpus, tmp_path):
    ingest(config(corpus), tmp_path, workers=0, progress=lambda text: None)
    said: list[str] = []
    ingest(config(corpus, system="cosmos"), tmp_path, workers=0, progress=said.append)
    assert not any("read before" in line for line in said)
    row = next(iterate_chat(tmp_path / "train"))
    assert row.messages[0] == {"role": "system", "text": SYSTEM_PROMPTS["cosmos"]}


def test_options_of_a_source_reach_its_rows(corpus, tmp_path):
    report = run(config(corpus, system="Look closely.", category="board", limit=10), tmp_path)["foreign"]
    assert 0 < report["records"] <= 10 + report["pieces"]
    row = next(iterate_chat(tmp_path / "train"))
    assert row.messages[0] == {"role": "system", "text": "Look closely."}
    assert row.category == "board"


def test_held_out_rows_show_nothing_that_training_rows_show(tmp_path):
    records = [looking(i) for i in range(120)] + [looking(i, answer=f"Field {i} is taken.") for i in range(120)]
    report = run(config(write_llava(tmp_path / "c", records, range(120)), holdout=0.25), tmp_path / "out")["foreign"]
    train, test = (list(iterate_chat(tmp_path / "out" / split)) for split in ("train", "test"))
    assert 30 <= len(test) <= 90
    assert not {row.images for row in train} & {row.images for row in test}
    assert not {row.id for row in train} & {row.id for row in test}
    assert_all_counted(report)
    other = run(config(tmp_path / "c/llava.json", holdout=0.25, seed=1), tmp_path / "other")
    assert list(iterate_chat(tmp_path / "other/test")) != test
    assert_all_counted(other["foreign"])


def test_a_picture_like_a_held_out_one_leaves_training(tmp_path):
    records = [looking(i) for i in range(40)]
    for i in range(40):  # the same picture in another encoding, another question
        again = looking(1000 + i)
        records.append(again)
    path = write_llava(tmp_path / "c", records, range(40))
    for i in range(40):
        (tmp_path / f"c/images/{1000 + i:04d}.jpg").write_bytes(jpeg(i, quality=55))
    report = run(config(path, holdout=0.3), tmp_path / "out")["foreign"]
    assert report["decontaminated"]["held_out"] > 0
    shown = [{int(row.meta["id"]) % 1000 for row in iterate_chat(tmp_path / "out" / s)} for s in ("train", "test")]
    assert not shown[0] & shown[1]
    assert_all_counted(report)


def test_benchmark_items_leave_training(tmp_path):
    question = "if you had nine apples and gave away two of them how many would you have left over"
    told = talking(1) | {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "Seven."}]}
    path = write_llava(tmp_path / "c", [*(looking(i) for i in range(30)), told, talking(2)], range(30))
    benchmark = tmp_path / "EgoThink/Activity"
    (benchmark / "images").mkdir(parents=True)
    items = [{"image_path": [f"{i}.jpg"], "question": question, "answer": "seven"} for i in range(4)]
    (benchmark / "annotations.json").write_text(json.dumps(items))
    for i in range(4):
        (benchmark / f"images/{i}.jpg").write_bytes(jpeg(i * 5, quality=70))
    report = run(config(path, decontaminate=(tmp_path / "EgoThink",)), tmp_path / "out")["foreign"]
    assert report["decontaminated"] == {"clip_name": 0, "picture": 4, "frame": 0, "question": 1, "held_out": 0}
    assert {row.meta.get("id") for row in iterate_chat(tmp_path / "out/train")}.isdisjoint({"0", "5", "10", "15", "t1"})
    assert_all_counted(report)


def test_rows_that_are_there_already_are_not_repeated_and_their_test_split_not_shown(tmp_path):
    own = [
        ChatRow(
            id=str(i), source="simulator", category="c", images=(jpeg(i),), messages=chat_turn("<image>\nWho?", "I.")
        )
        for i in range(6)
    ]
    write_chat(tmp_path / "out/train/simulator-0.parquet", own[:3])
    write_chat(tmp_path / "out/test/simulator-0.parquet", own[3:])
    equal = looking(0) | {"conversations": [{"from": "human", "value": "<image> WHO?"}, {"from": "gpt", "value": "i."}]}
    path = write_llava(tmp_path / "c", [equal, *(looking(i) for i in range(10))], range(10))
    report = run(config(path), tmp_path / "out", own=tmp_path / "out")["foreign"]
    assert report["duplicates"]["exact"] == 1
    assert report["decontaminated"]["picture"] == 3
    assert report["kept"] == {"train": 7, "test": 0}
    assert len(list(iterate_chat(tmp_path / "out/train"))) == 10, "our own rows stay"


def test_of_equal_rows_in_two_sources_the_first_source_keeps_its_own(tmp_path):
    one = write_llava(tmp_path / "one", [looking(i) for i in range(10)], range(10))
    two = write_llava(tmp_path / "two", [looking(i) for i in range(5, 15)], range(5, 15))
    sources = (SourceConfig(name="two", path=two), SourceConfig(name="one", path=one))
    reports = run(IngestConfig(sources=sources), tmp_path / "out")
    assert (reports["two"]["kept"]["train"], reports["one"]["kept"]["train"]) == (10, 5)
    assert reports["one"]["duplicates"]["exact"] == 5
    assert sorted(path.name for path in (tmp_path / "out/train").iterdir()) == [
        "one-00000.parquet",
        "two-00000.parquet",
    ]


def test_files_stay_small_enough_to_be_read_whole(tmp_path, monkeypatch):
    assert FILE_BYTES <= 2**27
    monkeypatch.setattr("blm.pipelines.ingest.parts.FILE_BYTES", 20_000)
    monkeypatch.setattr("blm.pipelines.ingest.parts.GROUP_BYTES", 5_000)
    path = write_llava(tmp_path / "c", [looking(i) for i in range(40)], range(40))
    report = run(config(path, piece_mb=1.0), tmp_path / "out")["foreign"]
    files = sorted((tmp_path / "out/train").iterdir())
    assert report["pieces"] == 1
    assert len(files) == report["files"]["train"] > 3
    assert max(file.stat().st_size for file in files) < 40_000
    assert [int(row.meta["id"]) for row in iterate_chat(tmp_path / "out/train")] == list(range(40))


def test_the_command_needs_no_more_than_paths(corpus, tmp_path, capsys):
    good = write_llava(tmp_path / "my corpus", [talking(i) for i in range(6)])
    words = [str(good), f"board={corpus}", "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main(["ingest", *words, "--max-rejected-share", "0.5"]) == 0
    printed = capsys.readouterr().out.splitlines()
    reports = json.loads(printed[-1])
    assert list(reports) == ["llava", "board"]
    assert reports["board"]["kept"]["train"] > 50
    assert any(line.startswith("[ingest] llava: llava (") for line in printed)
    assert main(["ingest", "--out", str(tmp_path / "out")]) == 2
    assert "nothing to ingest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"path": "gone.json"}, "source a: gone.json does not exist"),
        ({"format": "lava"}, "source a: format 'lava'; did you mean 'llava'?"),
        ({"media_root": "gone"}, "source a: media_root gone is no folder"),
        ({"name": "language"}, "which is what blm makes itself"),
        ({"name": "a/b"}, "a source is named 'a/b'"),
        ({"holdout": 1.0}, "source a: holdout is 1.0"),
        ({"fps": 0.0}, "source a: fps is 0.0"),
        ({"limit": -1}, "source a: limit is -1"),
        ({"max_frames": 0}, "source a: max_frames is 0"),
    ],
)
def test_impossible_sources_are_refused(corpus, tmp_path, options, problem):
    values = {"name": "a", "path": str(corpus)} | options
    values |= {key: Path(values[key]) for key in ("path", "media_root") if key in values}
    with pytest.raises(UserError, match=problem):
        run(IngestConfig(sources=(SourceConfig(**values),)), tmp_path)


def test_a_source_without_records_and_two_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="two sources are named a"):
        IngestConfig(sources=(SourceConfig(name="a", path=tmp_path), SourceConfig(name="a", path=tmp_path)))
    empty = write_llava(tmp_path, [])
    with pytest.raises(UserError, match=r"source a: .* has no records"):
        run(config(empty, name="a", format="llava"), tmp_path / "out")
