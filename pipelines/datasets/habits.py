"""What training answered, question by question: the guess of somebody who never looks.

Always giving the commonest training answer of a category needs neither picture nor question. Whatever is reported about
a model stands beside it.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blm.pipelines.datasets.chat import chat_files
from blm.pipelines.datasets.parquet import read_table

COLUMNS = ("category", "messages", "meta")
ROWS = 4096
"""Conversations taken apart at a time; pictures are never read."""


def habit_key(category: str, choice: bool) -> str:
    """Under which name training answers are counted: letters apart from words."""
    return f"{category}, multiple choice" if choice else category


def plain(text: str) -> str:
    """An answer without the white space that nobody sees."""
    return " ".join(text.split())


def training_answers(folder: Path, categories: Collection[str] | None = None) -> dict[str, Counter[str]]:
    """How often each answer was given in a folder of conversations, by `habit_key`.

    categories: the only ones to count, where a corpus holds long answers in others. UserError if a file is damaged.
    """
    counts: dict[str, Counter[str]] = {}
    for path in chat_files(folder):
        table = read_table(path, COLUMNS)
        if categories is not None:  # turns with categories of their own say so among the facts
            named = pc.is_in(table["category"], value_set=pa.array(sorted(categories), type=pa.string()))
            table = table.filter(pc.or_(named, pc.match_substring(table["meta"], '"categories"')))
        for batch in table.to_batches(max_chunksize=ROWS):
            for row in batch.to_pylist():
                _count(row, categories, counts)
    return counts


def usual_answers(habits: Mapping[str, Counter[str]]) -> dict[str, str]:
    """The commonest answer of each key; of equally common ones the first in the alphabet."""
    return {key: min(counts, key=lambda answer: (-counts[answer], answer)) for key, counts in habits.items() if counts}


def _count(row: Mapping[str, Any], categories: Collection[str] | None, counts: dict[str, Counter[str]]) -> None:
    answers = [message["text"] for message in row["messages"] if message["role"] == "assistant"]
    facts = json.loads(row["meta"] or "{}")
    choice = facts.get("form") == "choice"
    of_turn = facts.get("categories") or [row["category"]] * len(answers)
    for category, answer in zip(of_turn, answers, strict=True):
        if categories is None or category in categories:
            counts.setdefault(habit_key(category, choice), Counter())[plain(answer)] += 1
