"""The questions of a test corpus."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.model.prompts import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from blm.pipelines.datasets.balance import evenly
from blm.pipelines.datasets.chat import chat_files
from blm.pipelines.datasets.parquet import read_table
from blm.pipelines.digital.answers import normalise

COLUMNS = ("id", "category", "messages", "meta")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A row of the test corpus, without its pictures."""

    id: str
    """Unique within the corpus."""
    category: str
    """What is asked."""
    text: str
    """All that is said before the answer."""
    answer: str
    """The right one."""
    images: int
    """Pictures that belong to it."""
    new_words: bool
    """Whether it is put in words kept out of training."""
    file: Path
    """Where it stands."""
    row: int
    """In which row of the file."""
    videos: int = 0
    """Videos that belong to it."""
    choice: bool = False
    """Whether it is multiple choice; the answer is a letter then."""


def read_questions(folder: Path) -> list[Question]:
    """Every question of a test corpus, one a row; pictures are not read."""
    return [
        question_of(record, path, row)
        for path in chat_files(folder)
        for row, record in enumerate(read_table(path, COLUMNS).to_pylist())
    ]


def question_of(record: Mapping[str, Any], path: Path, row: int) -> Question:
    """A row of `path` (`COLUMNS`) as a question. UserError if it does not end with an answer."""
    messages = record["messages"]
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise UserError(f"{path}: conversation {record['id']} does not end with an answer; run the corpora stage again")
    text = "\n".join(message["text"] for message in messages[:-1])
    facts = json.loads(record["meta"] or "{}")
    return Question(
        id=record["id"],
        category=record["category"],
        text=text,
        answer=normalise(messages[-1]["text"]),
        images=text.count(IMAGE_PLACEHOLDER),
        videos=text.count(VIDEO_PLACEHOLDER),
        new_words=facts.get("phrasing") == "held_out",
        choice=facts.get("form") == "choice",
        file=path,
        row=row,
    )


def choose(questions: Sequence[Question], limit: int) -> list[Question]:
    """At most `limit` questions (0: all), as many of each category as there are and fit, always the same ones."""
    places = evenly([question.id for question in questions], [question.category for question in questions], limit)
    return [questions[place] for place in places]
