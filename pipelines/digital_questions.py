"""The questions of a test corpus, and what training had them answered with: what `digital` asks and compares with."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from blm.model.errors import UserError
from blm.model.prompts import IMAGE_PLACEHOLDER
from blm.pipelines.answers import normalise
from blm.pipelines.datasets.chat import chat_files
from blm.pipelines.datasets.parquet import read_table


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
    choice: bool = False
    """Whether it is multiple choice; the answer is a letter then."""


def read_questions(folder: Path) -> list[Question]:
    """Every question of a test corpus, one a row; pictures are not read."""
    columns = ("id", "category", "messages", "meta")
    found = []
    for path in chat_files(folder):
        table = read_table(path, columns).to_pydict()
        for row, (name, category, messages, meta) in enumerate(zip(*(table[c] for c in columns), strict=True)):
            if len(messages) < 2 or messages[-1]["role"] != "assistant":
                raise UserError(f"{path}: conversation {name} does not end with an answer; run the corpora stage again")
            text = "\n".join(message["text"] for message in messages[:-1])
            facts = json.loads(meta or "{}")
            found.append(
                Question(
                    id=name,
                    category=category,
                    text=text,
                    answer=normalise(messages[-1]["text"]),
                    images=text.count(IMAGE_PLACEHOLDER),
                    new_words=facts.get("phrasing") == "held_out",
                    choice=facts.get("form") == "choice",
                    file=path,
                    row=row,
                )
            )
    return found


def choose(questions: Sequence[Question], limit: int) -> list[Question]:
    """At most `limit` questions (0: all), as many of each category as there are and fit, always the same ones."""
    by_category: dict[str, list[Question]] = {}
    for question in sorted(questions, key=lambda q: sha256(q.id.encode()).digest()):
        by_category.setdefault(question.category, []).append(question)
    ranked = [(rank, q) for group in by_category.values() for rank, q in enumerate(group)]
    ranked.sort(key=lambda item: (item[0], item[1].category))
    return [question for _, question in ranked][: limit or None]


def training_answers(folder: Path) -> dict[str, Counter[str]]:
    """How often each answer was given in training, by category (`habit_key`)."""
    counts: dict[str, Counter[str]] = {}
    for path in chat_files(folder):
        for row in read_table(path, ("category", "messages", "meta")).to_pylist():
            answers = [message["text"] for message in row["messages"][1::2]]
            facts = json.loads(row["meta"] or "{}")
            key = habit_key(row["category"], facts.get("form") == "choice")
            categories = facts.get("categories") or [key] * len(answers)
            for category, answer in zip(categories, answers, strict=True):
                counts.setdefault(category, Counter())[normalise(answer)] += 1
    return counts


def habit_key(category: str, choice: bool) -> str:
    """Under which name training answers are counted: letters apart from words."""
    return f"{category}, multiple choice" if choice else category
