"""What training answered: counted turn by turn, letters apart from words."""

from collections import Counter

from blm.pipelines.datasets.chat import ChatRow, chat_turn, write_chat
from blm.pipelines.datasets.habits import habit_key, training_answers, usual_answers


def row(name, category, turns, **meta) -> ChatRow:
    messages = tuple(message for question, answer in turns for message in chat_turn(question, answer))
    return ChatRow(id=name, source="s", category=category, messages=messages, meta=meta)


def write(folder) -> None:
    system = ({"role": "system", "text": "Be short."},)
    spoken = row("c", "side", [("Left?", "right")])
    write_chat(
        folder / "a.parquet",
        [
            row("a", "mixed", [("Where?", "left"), ("Done?", " yes \n")], categories=["side", "done"]),
            row("b", "side", [("Which?", "B")], form="choice"),
            ChatRow(id="c", source="s", category="side", messages=system + spoken.messages),
        ],
    )
    write_chat(
        folder / "b.parquet", [row("d", "essay", [("Write.", "Once upon a time.")]), row("e", "done", [("?", "yes")])]
    )


def test_every_turn_counts_for_its_category_and_letters_for_themselves(tmp_path):
    write(tmp_path)
    assert training_answers(tmp_path) == {
        "side": Counter({"left": 1, "right": 1}),
        "done": Counter({"yes": 2}),
        habit_key("side", choice=True): Counter({"B": 1}),
        "essay": Counter({"Once upon a time.": 1}),
    }


def test_only_the_categories_that_are_asked_for_are_counted(tmp_path):
    write(tmp_path)
    assert training_answers(tmp_path, ["done"]) == {"done": Counter({"yes": 2})}
    assert training_answers(tmp_path, []) == {}


def test_of_equally_common_answers_the_first_in_the_alphabet_is_usual():
    assert usual_answers({"a": Counter(right=3, left=3, up=1), "b": Counter()}) == {"a": "left"}
