"""Answers as they are meant: letters, plain words, pixels, sentences; and a corpus that holds all of these."""

import json
from collections import Counter
from pathlib import Path

import pytest

from blm.pipelines.datasets.chat import ChatRow, chat_turn, write_chat
from blm.pipelines.datasets.episode_words import with_options
from blm.pipelines.datasets.habits import habit_key, training_answers
from blm.pipelines.digital.forms import as_meant, form_scores, overlap, read_letter, read_options, read_pixels, token_f1
from blm.pipelines.digital.questions import read_questions
from blm.pipelines.digital.scores import score

OPTIONS = {"A": "<reach the red cube>", "B": "<grasp the red cube>", "C": "yes", "D": "no"}


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("b.", None),  # a word, not a letter
        ("B.", "B"),
        ("The answer is B", "B"),
        ("the answer is (B).", "B"),
        ("Option B, because A is done", "B"),
        ("<think>maybe A</think><answer> B </answer>", "B"),
        ("<grasp the red cube>", "B"),
        ("<Grasp the red cube>.", "B"),
        ("I would say B", "B"),
        ("A or B", None),
        ("E", None),
        ("", None),
        ("grasp", None),
    ],
)
def test_the_letter_that_is_meant_is_taken_if_there_is_no_doubt(said: str, letter: str | None) -> None:
    assert read_letter(said, OPTIONS) == letter


def test_options_are_found_in_the_question() -> None:
    text = "<image>\n" + with_options("What comes next?", tuple(OPTIONS.values()))
    assert read_options(text) == OPTIONS
    assert read_options("What comes next?") == {}


@pytest.mark.parametrize(
    ("said", "truth", "meant"),
    [
        ("Yes.", "yes", "yes"),
        (" 2.", "2", "2"),
        ("Yes, it is", "yes", "yes, it is"),
        ("The box is [ 1,2, 30 ,40 ].", "[1, 2, 30, 40]", "[1, 2, 30, 40]"),
        ("[1, 2] or [3, 4]", "[1, 2]", "[1, 2] or [3, 4]"),
        ("Red", "red", "Red"),  # other words have to be right as they stand
    ],
)
def test_plain_answers_are_read_leniently(said: str, truth: str, meant: str) -> None:
    assert as_meant(said, truth, {}) == meant


def test_sentences_share_words_and_boxes_share_pixels() -> None:
    assert token_f1("<grasp the red cube>", "grasp the red cube") == 1.0
    assert token_f1("<grasp the red cube>", "reach the red cube") == pytest.approx(0.75)
    assert token_f1("<grasp the red cube>", "") == 0.0
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (20, 20, 30, 30)) == 0.0
    assert overlap((0, 0, 10, 10), (9, 9, 1, 1)) == 0.0
    assert read_pixels("at [3, 4]") == [3, 4]
    assert read_pixels("at 3, 4") is None


def test_a_category_is_scored_by_the_forms_it_has() -> None:
    assert form_scores(["red"], ["red"], [False]) == {}
    steps = form_scores(
        ["A", "<grasp the red cube>", "<reach the red cube>"], ["A", "<reach the red cube>", "<reach the red cube>"],
        [True, False, False],
    )  # fmt: skip
    assert (steps["choice"], steps["free"], steps["f1"]) == (1.0, 0.5, pytest.approx(0.875))
    points = form_scores(["[10, 10]", "[20, 20]"], ["[13, 14]", "left"], [False, False])
    assert (points["error_px"], points["unreadable"]) == (5.0, 1)
    assert "iou" not in points
    boxes = form_scores(["[0, 0, 10, 10]", "[0, 0, 4, 4]"], ["[0, 0, 10, 10]", "[1, 1]"], [False, False])
    assert (boxes["iou"], boxes["error_px"], boxes["unreadable"]) == (0.5, 0.0, 1)


def test_places_are_measured_among_letters() -> None:
    row = score(
        truths=["B", "<loc_10> <loc_20> <loc_30>"],
        answers=["B", "<loc_13> <loc_20> <loc_30>"],
        blank=[None, None],
        habits=Counter(["<loc_10> <loc_20> <loc_30>"]),
    )
    assert (row["after"], row["error_cm"], row["unreadable"]) == (0.5, 3.0, 0)


def test_letters_and_words_have_habits_of_their_own(tmp_path: Path) -> None:
    def row(number: int, form: str, answer: str) -> ChatRow:
        text = with_options("Next?", ("<a>", "<b>")) if form == "choice" else "Next?"
        return ChatRow(
            id=str(number),
            source="episodes",
            category="planning",
            messages=chat_turn(text, answer),
            meta={"form": form},
        )

    rows = [row(0, "choice", "A"), row(1, "choice", "B"), row(2, "choice", "B"), row(3, "free", "<a>")]
    write_chat(tmp_path / "a.parquet", rows)
    assert training_answers(tmp_path) == {
        "planning": Counter({"<a>": 1}),
        habit_key("planning", True): Counter({"B": 2, "A": 1}),
    }
    questions = read_questions(tmp_path)
    assert [question.choice for question in questions] == [True, True, True, False]
    assert json.dumps(read_options(questions[0].text)) == '{"A": "<a>", "B": "<b>"}'
