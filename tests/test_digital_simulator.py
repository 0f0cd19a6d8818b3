"""Held-out questions: which are asked, how a model answers them, and what counts as right."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from small_corpus import rows, write_corpus
from small_stages import work_here

from blm.model.errors import UserError
from blm.pipelines.datasets.chat import ChatRow, chat_turn, write_chat
from blm.pipelines.datasets.habits import training_answers
from blm.pipelines.digital.answer_worker import AnswerWorker
from blm.pipelines.digital.answers import normalise, position_error, read_position
from blm.pipelines.digital.questions import Question, choose, read_questions
from blm.pipelines.digital.scores import middle_position, over_all, score
from blm.pipelines.digital.simulator import DigitalConfig, evaluate_digital
from blm.pipelines.workspace import StageContext, write_json


def worker(model: Path) -> AnswerWorker:
    return AnswerWorker(model=str(model), device="cpu", dtype="float32", max_new_tokens=8)


# ------------------------------------------------------------------------------------------------------------ answers


def test_a_model_that_learned_its_corpus_answers_it_right_by_looking(learned_mllm: Path) -> None:
    asked = rows("test", 4)
    answers = worker(learned_mllm).answer(asked)
    assert answers == [row.messages[-1]["text"] for row in asked]
    blind = worker(learned_mllm).answer([row for row in asked if row.images], blank=True)
    assert set(blind[:4]) <= {"yes", "no"}
    assert len(set(blind[:4])) == 1  # without the picture white and black get the same answer


def test_answers_do_not_depend_on_what_else_is_in_the_batch(learned_mllm: Path) -> None:
    asked = rows("test", 2)
    model = worker(learned_mllm)
    assert model.answer(asked) == [model.answer([row])[0] for row in asked]


def test_an_answer_that_never_ends_is_marked_and_cannot_be_right(tiny_mllm: Path) -> None:
    (answer,) = worker(tiny_mllm).answer(rows("test", 1)[:1])  # untrained: it babbles
    assert answer.endswith("...")


def test_positions_are_read_from_three_position_words_and_nothing_else() -> None:
    assert read_position("<loc_01> <loc_02> <loc_63>") == (1, 2, 63)
    for text in ("", "left", "<loc_01> <loc_02>", "<loc_01> " * 4, "at <loc_01> <loc_02> <loc_03>"):
        assert read_position(text) is None
    assert normalise("  <loc_01>\n<loc_02> ") == "<loc_01> <loc_02>"


def test_position_errors_are_in_bins_and_metres() -> None:
    bins, metres = position_error((10, 20, 30), (13, 20, 34))  # 3 cm along x, 2 cm along z
    assert bins == pytest.approx(7 / 3)
    assert metres == pytest.approx((0.03**2 + 0.02**2) ** 0.5)


# -------------------------------------------------------------------------------------------------------------- scores


def test_a_category_is_scored_beside_guessing_and_not_looking() -> None:
    row = score(
        truths=["yes", "no", "no", "yes"],
        answers=["yes", "no", "yes", "yes"],
        blank=["no", "no", "no", None],
        habits=Counter({"no": 5, "yes": 4}),
    )
    assert (row["n"], row["after"], row["majority"]) == (4, 0.75, 0.5)
    assert row["no_picture"] == pytest.approx(2 / 3)
    assert row["low"] < 0.75 < row["high"]
    assert "error_cm" not in row


def test_places_are_also_scored_by_distance() -> None:
    habits = Counter(["<loc_10> <loc_20> <loc_30>", "<loc_12> <loc_20> <loc_30>", "<loc_40> <loc_20> <loc_30>"])
    assert middle_position(habits) == (12, 20, 30)
    row = score(
        truths=["<loc_10> <loc_20> <loc_30>"] * 3,
        answers=["<loc_10> <loc_20> <loc_30>", "<loc_13> <loc_20> <loc_30>", "left"],
        blank=[None] * 3,
        habits=habits,
    )
    assert row["after"] == pytest.approx(1 / 3)
    assert (row["error_bins"], row["error_cm"], row["unreadable"]) == (0.5, 1.5, 1)
    assert row["within_2_bins"] == pytest.approx(1 / 3)  # three bins off is not near, and neither is no position
    assert row["guess_error_cm"] == pytest.approx(2.0)
    assert row["no_picture"] is None


def test_the_overall_figures_weigh_every_question_alike() -> None:
    seen = score(truths=["a"] * 3, answers=["a"] * 3, blank=["b"] * 3, habits=Counter("a"))
    said = score(truths=["x"], answers=["y"], blank=[None], habits=Counter("z"))
    total = over_all([seen, said])
    assert (total["accuracy"], total["with_picture"], total["no_picture"]) == (0.75, 1.0, 0.0)
    assert total["majority"] == 0.75


# ----------------------------------------------------------------------------------------------------------- questions


def test_questions_are_drawn_evenly_and_always_the_same_ones(tmp_path: Path) -> None:
    questions = [
        Question(id=f"{c}{i}", category=c, text="?", answer="a", images=0, new_words=False, file=tmp_path, row=i)
        for c, n in (("many", 50), ("some", 10), ("few", 2))
        for i in range(n)
    ]
    chosen = choose(questions, 20)
    assert Counter(q.category for q in chosen) == {"many": 9, "some": 9, "few": 2}
    assert choose(questions[::-1], 20) == chosen
    assert len(choose(questions, 0)) == 62


def test_the_corpus_is_read_with_pictures_counted_and_answers_apart(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path)
    questions = read_questions(corpus / "test")
    assert len(questions) == 24
    first = questions[0]
    assert (first.category, first.answer, first.images, first.row) == ("white", "yes", 1, 0)
    assert "yes" not in first.text
    assert [q.images for q in questions if q.category == "talk"] == [0] * 8
    assert [q.new_words for q in questions[:4]] == [False, False, True, True]


def test_habits_are_counted_turn_by_turn(tmp_path: Path) -> None:
    turns = (*chat_turn("How many?", "two"), *chat_turn("Which color?", "red"), *chat_turn("How many now?", "two"))
    meta = {"categories": ["count", "color", "count"]}
    write_chat(tmp_path / "a.parquet", [ChatRow(id="1", source="s", category="mixed", messages=turns, meta=meta)])
    assert training_answers(tmp_path) == {"count": Counter(two=2), "color": Counter(red=1)}


# --------------------------------------------------------------------------------------------------------- the whole


@pytest.mark.ray
def test_the_digital_part_asks_scores_and_goes_on_where_it_was(
    ray_cluster: None,
    learned_mllm: Path,
    tmp_path: Path,
    stage_context: Callable[..., StageContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = write_corpus(tmp_path / "corpora")
    stage1 = tmp_path / "stage1"
    stage1.mkdir()
    (stage1 / "model").symlink_to(learned_mllm)
    write_json(stage1 / "metrics.json", {"accuracy": {"before": {"white": 0.25}}})
    context = stage_context("evaluate", inputs={"corpora": corpus, "stage1": stage1})
    config = DigitalConfig(batch=4, max_new_tokens=8)
    result = evaluate_digital(config, context)
    assert result == json.loads((context.out / "digital.json").read_text())
    rows_of = {row["category"]: row for row in result["categories"]}
    assert list(rows_of) == ["place", "talk", "white"]
    white = rows_of["white"]
    assert (white["n"], white["after"], white["before"]) == (8, 1.0, 0.25)
    assert (white["majority"], white["no_picture"]) == (0.5, 0.5)
    assert (white["seen_words"], white["new_words"], rows_of["talk"]["new_words"]) == (1.0, 1.0, None)
    assert (rows_of["place"]["after"], rows_of["place"]["error_cm"], rows_of["place"]["unreadable"]) == (1.0, 0.0, 0)
    assert rows_of["place"]["guess_error_cm"] > 0
    assert rows_of["talk"]["no_picture"] is None
    assert (result["n"], result["accuracy"], result["with_picture"]) == (24, 1.0, 1.0)

    # Of a killed attempt whole batches are kept as they are, here visibly; a batch that is not complete is asked again.
    log = context.out / "answers.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 24 + 16
    batch = [line for line in lines if not line["blank"] and line["id"].startswith("test-white")][:4]
    for line in batch:
        line["answer"] = "edited"
    kept = [line for line in lines[3:] if line not in batch] + batch
    log.write_text("".join(json.dumps(line) + "\n" for line in kept) + '{"id": "torn')
    work_here(monkeypatch, "blm.pipelines.digital.simulator")
    again = evaluate_digital(config, context)
    assert {row["category"]: row["after"] for row in again["categories"]}["white"] == 0.5
    order = [(line["id"], line["blank"]) for line in lines]
    assert [(line["id"], line["blank"]) for line in map(json.loads, log.read_text().splitlines())] == order


def test_a_missing_corpus_is_named(tmp_path: Path, stage_context: Callable[..., StageContext]) -> None:
    context = stage_context("evaluate", inputs={"corpora": tmp_path / "none", "stage1": tmp_path})
    with pytest.raises(UserError, match="holds no Parquet file"):
        evaluate_digital(DigitalConfig(), context)
    with pytest.raises(UserError, match=r"evaluate\.digital\.batch is 0"):
        DigitalConfig(batch=0)
