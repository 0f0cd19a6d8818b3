"""What a corpus holds, counted from its files: for the stage's summary and for the person watching."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blm.pipelines.datasets.chat import chat_files
from blm.pipelines.datasets.episode_rows import SOURCE
from blm.pipelines.datasets.episode_views import EPISODE_CATEGORIES
from blm.pipelines.datasets.parquet import open_parquet, read_table
from blm.pipelines.workspace import StageContext


def describe(folder: Path, sources: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a folder of conversations holds: rows by source, questions by category, and each category's
    commonest answer.

    sources: names of outside corpora; of those, answers are as many as they are rows, and so are not told apart.
    """
    rows: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {}
    for path in chat_files(folder):
        with open_parquet(path) as file:
            for batch in file.iter_batches(batch_size=2000, columns=["source", "category", "messages", "meta"]):
                for row in batch.to_pylist():
                    rows[row["source"]] += 1
                    given = [message["text"] for message in row["messages"] if message["role"] == "assistant"]
                    if sources and row["source"] in sources:
                        asked[row["category"]] += len(given)
                        continue
                    categories = json.loads(row["meta"]).get("categories") or [row["category"]] * len(given)
                    for category, answer in zip(categories, given, strict=True):
                        counts.setdefault(category, Counter())[answer] += 1
    totals = {category: answered.total() for category, answered in sorted(counts.items())}
    questions = {category: totals.get(category, 0) + asked[category] for category in sorted({*totals, *asked})}
    return {
        "rows": rows.total(),
        "rows_by_source": dict(rows),
        "questions": sum(questions.values()),
        "questions_by_category": questions,
        "answers_by_category": {category: len(counts[category]) for category in totals},
        "majority_share": {c: round(max(counts[c].values()) / total, 3) for c, total in totals.items()},
    }


def print_mix(context: StageContext, rows_by_source: Mapping[str, int]) -> None:
    """One line: what share of the training conversations each source has, before any mixture weighs them."""
    total = sum(rows_by_source.values())
    shares = ", ".join(f"{source} {n} ({n / total:.0%})" for source, n in rows_by_source.items())
    context.progress(f"conversations by source: {shares}")


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
