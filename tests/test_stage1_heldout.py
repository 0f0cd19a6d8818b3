"""What Stage I is measured by: right counts on any number of ranks, and pictures that matter."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_corpus import rows, write_corpus
from small_rows import SmallRows, load_scorer
from small_workers import on_workers

from blm.model.chat_encoder import ChatEncoder
from blm.model.packing import EncodedRow, RowMedia
from blm.pipelines.datasets.balance import evenly
from blm.pipelines.datasets.chat import iterate_chat, write_chat
from blm.pipelines.digital.answers import BLANK_RGB
from blm.pipelines.finetune.heldout import HeldOut, choose_questions, measure, with_grey
from blm.pipelines.finetune.results import results, table


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


class Numbered:
    """Rows whose number is all that is in them."""

    def __init__(self, count: int) -> None:
        self.ids = [f"q{i:03d}" for i in range(count)]
        self.lengths = np.arange(count) % 7 + 3

    def __getitem__(self, index: int) -> EncodedRow:
        ids = np.full(self.lengths[index], index)
        return EncodedRow(input_ids=ids, labels=ids, positions=np.zeros((1, len(ids)), dtype=np.int32))


def by_number(encoded):
    """Every third row is right; each costs its number in nats."""
    numbers = [int(row.input_ids[0]) for row in encoded]
    return [n % 3 == 0 for n in numbers], [float(n) for n in numbers], [2 for _ in numbers]


def numbered_questions(count: int) -> list[HeldOut]:
    return [
        HeldOut(id=f"q{i:03d}", category="ab"[i % 2], usual=i % 5 == 0, media=i % 2 == 0, new_words=i % 4 == 0)
        for i in range(count)
    ]


def test_questions_are_drawn_evenly_and_always_the_same():
    ids = [f"id{i}" for i in range(30)]
    categories = ["rare"] * 3 + ["common"] * 27
    chosen = evenly(ids, categories, 10)
    assert sorted(categories[i] for i in chosen) == ["common"] * 7 + ["rare"] * 3
    backwards = evenly(ids[::-1], categories[::-1], 10)
    assert {ids[i] for i in chosen} == {ids[::-1][i] for i in backwards}
    assert sorted(evenly(ids, categories, 0)) == list(range(30))


def test_a_question_knows_its_habit_its_words_and_whether_it_shows_something(corpus):
    questions = {q.id: q for q in choose_questions(corpus, 0)}
    rows_by_id = {row.id: row for row in iterate_chat(corpus / "test")}
    assert questions.keys() == rows_by_id.keys()
    for name, question in questions.items():
        row = rows_by_id[name]
        answer = row.messages[-1]["text"]
        assert question.category == row.category
        assert question.media == bool(row.images)
        assert question.new_words == (row.meta.get("phrasing") == "held_out")
        # Training has five white pictures and four black ones, and always says yes when nothing is shown.
        usual = {"white": "yes", "place": "<loc_10> <loc_20> <loc_30>", "talk": "yes"}[row.category]
        assert question.usual == (answer == usual)
    counted = [q.category for q in choose_questions(corpus, 7)]
    assert sorted(counted.count(category) for category in ("white", "place", "talk")) == [2, 2, 3]


def test_counts_are_those_of_every_question_once():
    counts = measure(numbered_questions(41), Numbered(41), by_number, max_tokens=20)
    assert counts["a"] == {
        "n": 21, "right": 7, "usual": 5, "nats": 420.0, "tokens": 42, "media": 21, "new": 11, "new_right": 4
    }  # fmt: skip
    assert (counts["b"]["n"], counts["b"]["media"], counts["b"]["new_right"]) == (20, 0, 0)


def test_batches_keep_to_their_tokens_and_rows_that_are_not_there_are_left_out():
    sizes = []

    def score(encoded):
        sizes.append(sum(len(row.input_ids) for row in encoded))
        return by_number(encoded)

    counts = measure(numbered_questions(60), Numbered(41), score, max_tokens=20)
    assert counts["a"]["n"] + counts["b"]["n"] == 41
    assert max(sizes) <= 20
    sizes.clear()
    measure(numbered_questions(3), Numbered(3), score, max_tokens=1)
    assert sizes == [3, 4, 5]  # one row a batch, however long


def _ask(folder: str) -> None:
    """One rank's counts and how often it asked, written down."""
    calls = []

    def score(encoded):
        calls.append(len(encoded))
        return by_number(encoded)

    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    counts = measure(numbered_questions(41), Numbered(41), score, rank=rank, world=world, max_tokens=20)
    (Path(folder) / f"{rank}.json").write_text(json.dumps([counts, len(calls)]))


def test_ranks_count_together_what_one_counts_and_ask_equally_often(tmp_path):
    sizes = []
    alone = measure(
        numbered_questions(41), Numbered(41), lambda rows: sizes.append(len(rows)) or by_number(rows), max_tokens=20
    )
    assert len(sizes) % 2, "with an odd number of batches one of two ranks runs out of them"
    on_workers(_ask, 2, str(tmp_path))
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert all(counts == alone for counts, _ in found)
    assert [calls for _, calls in found] == [len(sizes) // 2 + 1] * 2  # or a collective inside would wait for ever


def test_grey_takes_the_pictures_and_nothing_else(tiny_mllm):
    encoder = ChatEncoder.load(tiny_mllm)
    row = SmallRows(rows("test", 1), encoder)[0]
    hidden = with_grey(row)
    assert (hidden.media.images[0] == np.array(BLANK_RGB)).all()
    assert hidden.media.images[0].shape == row.media.images[0].shape
    assert hidden.input_ids is row.input_ids
    values, grid = torch.ones(4, 6), torch.tensor([[1, 2, 2]])
    other = with_grey(replace(row, media=RowMedia(inputs={"pixel_values": values, "image_grid_thw": grid})))
    assert not other.media.inputs["pixel_values"].any()
    assert other.media.inputs["image_grid_thw"] is grid


def test_a_model_that_has_learned_to_look_is_told_from_one_that_guesses(corpus, learned_mllm, tiny_mllm):
    questions = choose_questions(corpus, 0)
    store = SmallRows(list(iterate_chat(corpus / "test")), ChatEncoder.load(tiny_mllm))
    before = measure(questions, store, load_scorer(tiny_mllm))
    score = load_scorer(learned_mllm)
    after = measure(questions, store, score)
    hidden = measure(questions, store, score, hide=with_grey)
    assert hidden.keys() == {"white", "place"}  # nothing can be hidden from what shows nothing
    found = results(before, after, hidden)
    categories = {row["category"]: row for row in found["heldout"]["categories"]}
    for name in ("white", "place"):
        row = categories[name]
        assert (row["n"], row["before"], row["after"]) == (8, 0.0, 1.0)
        assert row["majority"] == 0.5
        assert row["hidden"] <= 0.5  # the same picture for both answers
    talk = found["heldout"]["language"]
    assert (talk["n"], talk["after"], talk["hidden"]) == (8, 1.0, None)
    assert talk["perplexity_after"] < 1.2 < talk["perplexity_before"]
    assert found["accuracy"]["after"]["all"] == 1.0
    assert found["accuracy"]["n"] == {"white": 8, "place": 8, "talk": 8, "all": 24}


def test_batches_of_one_score_as_batches_of_many(corpus, learned_mllm, tiny_mllm):
    questions = choose_questions(corpus, 0)
    store = SmallRows(list(iterate_chat(corpus / "test")), ChatEncoder.load(tiny_mllm))
    score = load_scorer(learned_mllm)
    together, apart = measure(questions, store, score), measure(questions, store, score, max_tokens=1)
    for category, counts in together.items():
        assert counts == pytest.approx(apart[category], abs=1e-3)


def test_the_table_names_every_category_and_what_became_of_language(tmp_path):
    counts = measure(numbered_questions(41), Numbered(41), by_number)
    found = results(counts, counts, {"a": counts["a"]})["heldout"]
    lines = table(found)
    assert lines[0].split() == ["category", "n", "before", "after", "new", "words", "majority", "picture", "hidden"]
    assert lines[1].split() == ["a", "21", "33%", "33%", "36%", "24%", "33%"]
    assert lines[2].split() == ["b", "20", "35%", "35%", "-", "20%", "-"]
    assert lines[3].split() == ["all", "with", "pictures", "21", "33%", "33%", "36%", "24%", "33%"]
    assert lines[-1].startswith("language: 35.0% right before, 35.0% after; perplexity of answers 2.203e+04 before")


def test_a_corpus_without_language_has_a_table_too(tmp_path):
    looks = [row for row in rows("test", 2) if row.images]
    write_chat(tmp_path / "train" / "a.parquet", looks)
    write_chat(tmp_path / "test" / "a.parquet", looks)
    questions = choose_questions(tmp_path, 0)
    found = results({}, {}, {})
    assert len(questions) == len(looks)
    assert found["heldout"]["language"]["perplexity_after"] is None
    assert len(table(found["heldout"])) == 1
