"""Foreign conversations become ours: every layout in its own files, detected, split, read and loaded."""

import json
from pathlib import Path

import pytest
from small_dataset import write_dataset
from small_foreign import (
    EGOTHINK,
    encoded,
    llava_sample,
    load,
    picture,
    put,
    read_all,
    records,
    write_cosmos,
    write_cosmos_sft,
    write_egothink,
    write_llava,
    write_parquet,
    write_sharerobot,
    write_webdataset,
)

from blm.model.errors import UserError
from blm.pipelines.datasets.chat import ChatRow, Video, validate_row, write_chat
from blm.pipelines.datasets.readers.detect import detect
from blm.pipelines.datasets.readers.split import split

BUILDERS = {
    "llava": write_llava,
    "cosmos_benchmark": write_cosmos,
    "cosmos_sft": write_cosmos_sft,
    "sharerobot": write_sharerobot,
    "egothink": write_egothink,
    "webdataset": write_webdataset,
    "parquet": write_parquet,
    "lerobot": write_dataset,
}


@pytest.mark.parametrize("format", BUILDERS)
def test_every_layout_is_detected_split_read_and_loaded(tmp_path: Path, format: str) -> None:
    BUILDERS[format](tmp_path / "corpus")
    found = detect(tmp_path / "corpus")
    assert found.format == format
    assert found.why
    rows = [load(record, tmp_path / "corpus") for record in records(tmp_path / "corpus", format)]
    assert rows
    for row in rows:
        assert isinstance(row, ChatRow), row
        validate_row(row)
        assert row.images or row.videos
    assert len({row.id for row in rows}) == len(rows)


@pytest.mark.parametrize("format", BUILDERS)
def test_the_size_of_pieces_changes_nothing(tmp_path: Path, format: str) -> None:
    BUILDERS[format](tmp_path / "corpus")
    whole = records(tmp_path / "corpus", format)
    small = split(tmp_path / "corpus", format, 1)
    assert small == split(tmp_path / "corpus", format, 1)
    assert read_all(tmp_path / "corpus", format, size=1) == whole
    assert len(small) > 1


def test_json_lines_keep_their_line_numbers(tmp_path: Path) -> None:
    samples = [llava_sample(k) for k in range(5)]
    path = write_llava(tmp_path, samples, lines=True)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n\n", 2))
    lines = [r.where.rpartition(":")[2] for r in read_all(path, "llava", size=100)]
    assert lines == ["1", "3", "5", "6", "7"]


def test_two_formats_in_one_folder_are_not_guessed_at(tmp_path: Path) -> None:
    write_llava(tmp_path)
    write_parquet(tmp_path)
    with pytest.raises(UserError, match=r"name one of them"):
        detect(tmp_path)


def test_an_unknown_layout_names_its_file(tmp_path: Path) -> None:
    put(tmp_path / "odd.json", '[{"x": 1}]')
    with pytest.raises(UserError, match=r"odd\.json is in no format"):
        detect(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        detect(tmp_path / "nothing")
    with pytest.raises(UserError, match="there is no format 'llama'"):
        split(tmp_path, "llama")


def test_llama_factory_registers_columns_beside_a_file(tmp_path: Path) -> None:
    talk = [{"who": "me", "says": "What?"}, {"who": "you", "says": "That."}]
    put(tmp_path / "a.json", json.dumps([{"talk": talk}]))
    put(tmp_path / "b.json", json.dumps([{"ask": "Who?", "say": "I."}]))
    tags = {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "you"}
    registered = {
        "a": {"file_name": "a.json", "formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": tags},
        "b": {"file_name": "b.json", "columns": {"prompt": "ask", "response": "say"}},
        "c": "not a data set",
    }
    put(tmp_path / "dataset_info.json", json.dumps(registered))
    assert detect(tmp_path / "b.json").format == "instructions"
    assert records(tmp_path / "b.json", "instructions")[0].messages[1]["text"] == "I."
    assert records(tmp_path / "a.json", detect(tmp_path / "a.json").format)[0].messages[0]["text"] == "What?"


def test_cosmos_rows_become_multiple_choice_in_the_official_words(tmp_path: Path) -> None:
    found = records(write_cosmos(tmp_path), "cosmos_benchmark")
    assert len(found) == 2 * 3  # a list of two questions is two conversations
    row = load(found[-1], tmp_path)
    assert row.category == "robovqa"
    assert row.messages == (
        {"role": "system", "text": "Answer the questions."},
        {
            "role": "user",
            "text": "<video>\nWhat comes next?\n(A) step A\n(B) step B\n"
            "Answer with the option's letter from the given choices directly.",
        },
        {"role": "assistant", "text": "B"},
    )


@pytest.mark.parametrize("shorthand", [False, True])
def test_sharerobot_frames_are_found_wherever_they_were_unpacked(tmp_path: Path, shorthand: bool) -> None:
    record = records(write_sharerobot(tmp_path, shorthand=shorthand), "sharerobot")[0]
    row = load(record, tmp_path)
    assert row.messages[0]["text"].startswith("<image><image><image>")
    assert row.images == tuple(encoded(picture(k), "PNG") for k in range(3))
    assert (row.category, row.meta["selected_step"]) == ("Future_Prediction_Task", 3)
    assert row == load(record, tmp_path / "rt_frames_success/../")


def test_egothink_takes_the_pictures_of_its_own_folder(tmp_path: Path) -> None:
    rows = [load(record, tmp_path) for record in records(write_egothink(tmp_path), "egothink")]
    assert sorted(row.category for row in rows) == sorted(EGOTHINK)
    assert all(row.images == (encoded(picture(len(row.category))),) for row in rows)


def test_our_own_conversations_come_back_as_they_are(tmp_path: Path) -> None:
    video = Video(frames=tuple(encoded(picture(k)) for k in range(3)), fps=2.5)
    turns = ({"role": "user", "text": "<image><video>What?"}, {"role": "assistant", "text": "<loc_01>"})
    row = ChatRow(
        id="a", source="s", category="c", messages=turns, images=(encoded(),), videos=(video,), meta={"seed": 3}
    )
    write_chat(tmp_path / "a.parquet", [row])
    back = load(records(tmp_path, "parquet")[0], tmp_path)
    assert (back.messages, back.images, back.videos, back.category) == (turns, row.images, row.videos, "c")
    assert back.meta == {"seed": 3, "id": "a"}


def test_a_given_id_is_kept_beside_the_place(tmp_path: Path) -> None:
    path = write_llava(tmp_path, lines=True)
    row = load(records(path, "llava")[1], tmp_path)
    assert row.id == "foreign/train.jsonl:2"
    assert row.meta["id"] == "sample-1"
    assert json.dumps(row.meta)
