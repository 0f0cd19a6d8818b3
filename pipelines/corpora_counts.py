"""What a corpus holds, counted from its files: for the stage's summary and for the person watching."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blm.pipelines.datasets.chat import chat_files, read_chat
from blm.pipelines.datasets.episode_rows import SOURCE
from blm.pipelines.datasets.episode_views import EPISODE_CATEGORIES
from blm.pipelines.datasets.parquet import read_table
from blm.pipelines.workspace import StageContext


def describe(folder: Path) -> dict[str, Any]:
    """What a folder of conversations holds: rows by source, questions by category, and each category's
    commonest answer.
    """
    rows: dict[str, int] = {}
    counts: dict[str, dict[str, int]] = {}
    for path in chat_files(folder):
        for row in read_chat(path):
            rows[row.source] = rows.get(row.source, 0) + 1
            categories = row.meta.get("categories") or [row.category]
            for category, message in zip(categories, row.messages[1::2], strict=True):
                of_category = counts.setdefault(category, {})
                of_category[message["text"]] = of_category.get(message["text"], 0) + 1
    totals = {category: sum(answered.values()) for category, answered in sorted(counts.items())}
    return {
        "rows": sum(rows.values()),
        "rows_by_source": rows,
        "questions": sum(totals.values()),
        "questions_by_category": totals,
        "answers_by_category": {category: len(counts[category]) for category in totals},
        "majority_share": {c: round(max(counts[c].values()) / total, 3) for c, total in totals.items()},
    }


def count_questions(folder: Path) -> dict[str, dict[str, Any]]:
    """By category: how many questions, how many of them as multiple choice and about videos, how often each letter is
    right, and the share of the commonest answer in words.
    """
    counts: dict[str, Counter[str]] = {category: Counter() for category in EPISODE_CATEGORIES}
    answers: dict[str, Counter[str]] = {category: Counter() for category in EPISODE_CATEGORIES}
    letters: dict[str, Counter[str]] = {category: Counter() for category in EPISODE_CATEGORIES}
    for path in (path for path in chat_files(folder) if path.name.startswith(f"{SOURCE}-")):
        for row in read_table(path, ("category", "messages", "meta")).to_pylist():
            category, answer, meta = row["category"], row["messages"][-1]["text"], json.loads(row["meta"])
            counts[category] += Counter(rows=1, choice=meta["form"] == "choice", video=meta["video"])
            counts[category]["failures"] += meta["origin"] != "episode"
            answers[category][meta.get("said", answer)] += 1
            if meta["form"] == "choice":
                letters[category][answer] += 1
    return {
        category: {
            **{name: counts[category][name] for name in ("rows", "choice", "video", "failures")},
            "letters": dict(sorted(letters[category].items())),
            "answers": len(answers[category]),
            "majority_share": round(max(answers[category].values()) / counts[category]["rows"], 3),
        }
        for category in EPISODE_CATEGORIES
        if counts[category]["rows"]
    }


def print_table(context: StageContext, summary: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """A line a category: training and test questions, and how they are asked."""
    context.progress(
        f"{'questions about episodes':<36}{'train':>7}{'test':>6}{'choice':>8}{'video':>7}{'failures':>10}"
        f"{'answers':>9}{'commonest':>11}"
    )
    for category in EPISODE_CATEGORIES:
        train = summary["train"].get(category, {})
        test = summary["test"].get(category, {})
        if not train and not test:
            continue
        numbers = [train.get(name, 0) for name in ("choice", "video", "failures", "answers")]
        context.progress(
            f"{category:<36}{train.get('rows', 0):>7}{test.get('rows', 0):>6}{numbers[0]:>8}{numbers[1]:>7}"
            f"{numbers[2]:>10}{numbers[3]:>9}{train.get('majority_share', 0.0):>11.0%}"
        )
