"""The chat schema: round trips, what is refused, and the language set that is stored in it."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blm.model.errors import UserError
from blm.pipelines.datasets.chat import ChatRow, chat_turn, iterate_chat, read_chat, validate_row, write_chat
from blm.pipelines.datasets.language import facts, language_rows
from blm.pipelines.datasets.parquet import read_table, write_table


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


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ((), "every question needs its answer"),
        (chat_turn("<image><image>\nWhere?", "there")[:1], "every question needs its answer"),
        (chat_turn("<image>\nWhere?", "there"), "names 1 images, the row has 2"),
        (chat_turn("<image><image>\n", "there"), "has no text"),
        (chat_turn("<image><image>\nWhere?", " "), "has no text"),
        (chat_turn("<image><image>\nWhere?", "there <image>"), "message 1 names 1 images"),
        (tuple(reversed(chat_turn("Where?", "<image><image> there"))), "by 'assistant', not 'user'"),
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


def test_language_questions_have_one_answer_each():
    answers: dict[str, str] = {}
    for fact in facts():
        assert len(fact.questions) >= 2
        for text in fact.questions:
            assert answers.setdefault(text, fact.answer) == fact.answer


def test_language_test_questions_are_new_but_their_facts_are_not():
    train, test = language_rows(seed=0)
    assert (len(train), len(test)) == (110, 65)
    asked = [qa for row in train for qa in _questions(row)]
    new = [qa for row in test for qa in _questions(row)]
    assert (len(asked), len(new)) == (660, 65)
    assert max(Counter(text for _, text, _ in asked + new).values()) == 1
    known = {(topic, answer) for topic, _, answer in asked}
    assert {(topic, answer) for topic, _, answer in new} <= known
    assert {topic for topic, _, _ in new} == {topic for topic, _, _ in asked}
    for row in train + test:
        validate_row(row)


def test_copies_ask_the_same_in_other_company():
    once, tests = language_rows(seed=0)
    thrice, same_tests = language_rows(seed=0, copies=3)
    assert same_tests == tests
    counts = Counter(text for row in thrice for _, text, _ in _questions(row))
    assert counts == {text: 3 for row in once for _, text, _ in _questions(row)}
    talks = {tuple(text for _, text, _ in _questions(row)) for row in thrice}
    assert len(talks) == len(thrice) == 3 * len(once)


def _questions(row: ChatRow) -> list[tuple[str, str, str]]:
    """(topic, question, answer) of every turn."""
    topics = row.meta.get("categories", [row.category])
    texts = [message["text"] for message in row.messages]
    return list(zip(topics, texts[::2], texts[1::2], strict=True))


def test_language_rows_depend_on_the_seed_alone():
    assert language_rows(3) == language_rows(3)
    assert language_rows(3)[1] != language_rows(4)[1]
