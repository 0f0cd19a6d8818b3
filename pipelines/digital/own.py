"""Our own benchmark: the test split of a corpora folder, in which scenes and wordings are kept out of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blm.pipelines.datasets.chat import chat_files
from blm.pipelines.datasets.habits import training_answers
from blm.pipelines.datasets.parquet import read_table
from blm.pipelines.digital.forms import as_meant, read_options
from blm.pipelines.digital.item import Decoding, Item, Media
from blm.pipelines.digital.questions import question_of
from blm.pipelines.digital.scores import category_rows
from blm.pipelines.statistics import wilson

NAME = "simulator"
DECODING = Decoding(max_new_tokens=40)
COLUMNS = ("id", "category", "messages", "meta")


def load(corpora: Path) -> list[Item]:
    """Every question of `corpora/test`, one a row. UserError if there is none, or a file is damaged."""
    return [
        _item(record, path, row)
        for path in chat_files(corpora / "test")
        for row, record in enumerate(read_table(path, COLUMNS).to_pylist())
    ]


def _item(record: Mapping[str, Any], path: Path, row: int) -> Item:
    question = question_of(record, path, row)
    media = [("image", i) for i in range(question.images)] + [("video", i) for i in range(question.videos)]
    return Item(
        id=question.id,
        benchmark=NAME,
        category=question.category,
        messages=tuple(record["messages"][:-1]),
        media=tuple(Media(kind=kind, path=str(path), row=row, index=i) for kind, i in media),  # type: ignore[arg-type]
        reference=question.answer,
        question=question.text,
        decoding=DECODING,
        options=read_options(question.text) if question.choice else {},
    )


def meaning(item: Item, said: str) -> str:
    """An answer in the form in which the right one stands."""
    return as_meant(said, item.reference, item.options)


def rows(corpora: Path, items: Sequence[Item], meant: Mapping[str, str]) -> list[dict[str, Any]]:
    """What each category came to: the share of right answers as `score`, and what `category_rows` adds."""
    chosen = {item.id for item in items}
    questions = [
        question
        for path in chat_files(corpora / "test")
        for row, record in enumerate(read_table(path, COLUMNS).to_pylist())
        if (question := question_of(record, path, row)).id in chosen
    ]
    habits = training_answers(corpora / "train") if (corpora / "train").is_dir() else {}
    found = category_rows(questions, {(name, False): answer for name, answer in meant.items()}, habits)
    for row in found:
        row["score"] = row.pop("after")
        row["scored"] = row["n"]
    return found


def total(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of right answers over all categories' questions, with its interval."""
    n = sum(row["n"] for row in found)
    right = round(sum(row["score"] * row["n"] for row in found))
    low, high = wilson(right, n)
    return {"score": right / n, "low": low, "high": high}
