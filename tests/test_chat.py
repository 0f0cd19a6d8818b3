"""The chat schema: round trips, and what is refused."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blm.model.errors import UserError
from blm.pipelines.datasets.chat import ChatRow, Video, chat_turn, iterate_chat, read_chat, validate_row, write_chat
from blm.pipelines.datasets.parquet import read_table, write_table

SYSTEM = {"role": "system", "text": "Answer the questions."}


def make_row(number: int = 0) -> ChatRow:
    return ChatRow(
        id=f"row-{number}",
        source="simulator",
        category="mixed",
        images=(b"\x89PNG-one", b"\x89PNG-two"),
        messages=(
            *chat_turn("<image><image>\nWhere is the cube?", "<loc_01> <loc_02> <loc_03>"),
            *chat_turn("Done?", "no"),
        ),
        meta={"seed": 7, "object_positions": [0.5] * 9},
    )


def test_rows_survive_the_file(tmp_path):
    rows = [make_row(i) for i in range(3)]
    write_chat(tmp_path / "b.parquet", rows[1:])
    write_chat(tmp_path / "a.parquet", rows[:1])
    assert list(iterate_chat(tmp_path)) == rows
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.parquet", "b.parquet"]


def test_equal_rows_make_equal_files(tmp_path):
    for name in ("a", "b"):
        write_chat(tmp_path / f"{name}.parquet", [make_row()])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_videos_system_turns_and_media_of_later_turns_survive_the_file(tmp_path):
    row = ChatRow(
        id="row",
        source="s",
        category="c",
        messages=(SYSTEM, *chat_turn("<video><image>\nWhat moves?", "It."), *chat_turn("And here? <video>", "No.")),
        images=(b"picture",),
        videos=(Video(frames=(b"1", b"2", b"3"), fps=4.0), Video(frames=(b"4",), fps=0.5)),
    )
    write_chat(tmp_path / "a.parquet", [row, make_row()])
    assert read_chat(tmp_path / "a.parquet") == [row, make_row()]


@pytest.mark.parametrize("video", [Video(frames=(), fps=1.0), Video(frames=(b"1",), fps=0.0)])
def test_a_video_without_frames_or_rate_is_refused(video):
    row = ChatRow(id="row-9", source="s", category="c", messages=chat_turn("<video>\nWhere?", "a"), videos=(video,))
    with pytest.raises(ValueError, match="row-9: a video of"):
        validate_row(row)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ((), "every question needs its answer"),
        (chat_turn("<image><image>\nWhere?", "there")[:1], "every question needs its answer"),
        (chat_turn("<image>\nWhere?", "there"), "hold 1 <image>, the row has 2"),
        (chat_turn("<image><image>\n", "there"), "has no text"),
        (chat_turn("<image><image>\nWhere?", " "), "has no text"),
        (chat_turn("<image><image>\nWhere?", "there <image>"), "message 1 by 'assistant' holds <image>"),
        (tuple(reversed(chat_turn("Where?", "<image><image> there"))), "by 'assistant', not 'user'"),
        ((SYSTEM,), "every question needs its answer"),
        ((SYSTEM, SYSTEM, *chat_turn("<image><image>\nWhere?", "there")), "every question needs its answer"),
        ((*chat_turn("<image><image>\nWhere?", "there"), SYSTEM, SYSTEM), "message 2 is by 'system', not 'user'"),
        (({"role": "system", "text": "<image>"}, *chat_turn("<image>\nWhere?", "there")), "message 0 has no text"),
        (chat_turn("<image><image><video>\nWhere?", "there"), "hold 1 <video>, the row has 0"),
    ],
)
def test_malformed_conversations_are_refused(messages, problem):
    row = ChatRow(id="row-9", source="s", category="c", messages=messages, images=(b"1", b"2"))
    with pytest.raises(ValueError, match=f"row-9.*{problem}"):
        validate_row(row)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.parquet does not exist"):
        read_chat(tmp_path / "gone.parquet")
    damaged = tmp_path / "damaged.parquet"
    write_chat(damaged, [make_row()])
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"damaged\.parquet is not a readable Parquet file"):
        read_chat(damaged)
    pq.write_table(pa.table({"question": ["Where?"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"other\.parquet has no column category, id"):
        read_chat(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="holds no Parquet file of conversations"):
        list(iterate_chat(tmp_path / "nothing"))


def test_damage_inside_a_parquet_file_is_named(tmp_path):
    path = tmp_path / "data.parquet"
    write_table(path, pa.table({"x": pa.array(range(10_000))}))
    content = bytearray(path.read_bytes())
    content[100:6000] = b"\xff" * 5900  # the footer is whole, the pages are not
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"data\.parquet is not a readable Parquet file"):
        read_table(path)
