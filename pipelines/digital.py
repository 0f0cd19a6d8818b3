"""The digital part of `evaluate`: held-out questions, answered in the model's own words.

Stage I reports, while it trains, whether each right token would have come next; here the finished model generates its
answers freely (greedy), as it does when it is served, and an answer counts when it is word for word the right one.
Beside it stand what needs no model (the commonest answer of the training questions) and what needs no eyes (the same
model shown a grey picture): the distance to both is what the model has learned to see.

    answers.jsonl    one line an answer, appended as they come
    digital.json     by category
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

from blm.model.errors import UserError
from blm.model.prompts import IMAGE_PLACEHOLDER
from blm.pipelines.answers import AnswerWorker, normalise
from blm.pipelines.datasets.chat import chat_files
from blm.pipelines.datasets.items import map_items
from blm.pipelines.datasets.parquet import read_table
from blm.pipelines.digital_scores import over_all, score
from blm.pipelines.ledger import Ledger
from blm.pipelines.workspace import StageContext, read_json, write_json

KEY = ("id", "blank")
PROGRESS_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitalConfig:
    """How many questions are asked, and how."""

    questions: int = 600
    """Held-out questions, drawn evenly over their categories; 0: all there are."""
    batch: int = 32
    """Questions answered together."""
    max_new_tokens: int = 40
    """Tokens after which an answer is cut off, and wrong."""
    without_picture: bool = True
    """Whether questions about pictures are asked again with a grey picture."""

    def __post_init__(self) -> None:
        if self.questions < 0:
            raise UserError(f"evaluate.digital.questions is {self.questions}; give 0 or more")
        for name in ("batch", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"evaluate.digital.{name} is {getattr(self, name)}; give 1 or more")


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


def evaluate_digital(config: DigitalConfig, context: StageContext) -> dict[str, Any]:
    """Ask, write `digital.json` and return what it holds. UserError for damaged corpora or a missing model."""
    started_s = time.perf_counter()
    corpora, stage1 = context.inputs["corpora"], context.inputs["stage1"]
    questions = choose(read_questions(corpora / "test"), config.questions)
    with Ledger(context.out / "answers.jsonl", KEY) as ledger:
        _ask(config, context, stage1 / "model", questions, ledger)
        given = {(record["id"], record["blank"]): record["answer"] for record in ledger.records}
    before = read_json(stage1 / "metrics.json").get("accuracy", {}).get("before", {})
    habits = training_answers(corpora / "train")
    rows = []
    for category in sorted({question.category for question in questions}):
        mine = [question for question in questions if question.category == category]
        rows.append(
            {"category": category, "before": before.get(category)}
            | score(
                truths=[question.answer for question in mine],
                answers=[given[question.id, False] for question in mine],
                blank=[given.get((question.id, True)) for question in mine],
                habits=habits.get(category, Counter()),
            )
            | {
                "seen_words": _accuracy([q for q in mine if not q.new_words], given),
                "new_words": _accuracy([q for q in mine if q.new_words], given),
            }
        )
    result = {"n": len(questions), **over_all(rows), "categories": rows}
    write_json(context.out / "digital.json", result)
    _print_table(context, result, time.perf_counter() - started_s)
    return result


def _accuracy(questions: Sequence[Question], given: Mapping[tuple[str, bool], str]) -> float | None:
    """Share of right answers, None without questions."""
    return fmean(given[q.id, False] == q.answer for q in questions) if questions else None


# ----------------------------------------------------------------------------------------------------------- questions


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
            found.append(
                Question(
                    id=name,
                    category=category,
                    text=text,
                    answer=normalise(messages[-1]["text"]),
                    images=text.count(IMAGE_PLACEHOLDER),
                    new_words=json.loads(meta or "{}").get("phrasing") == "held_out",
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
    """How often each answer was given in training, by category."""
    counts: dict[str, Counter[str]] = {}
    for path in chat_files(folder):
        for row in read_table(path, ("category", "messages", "meta")).to_pylist():
            answers = [message["text"] for message in row["messages"][1::2]]
            categories = json.loads(row["meta"] or "{}").get("categories") or [row["category"]] * len(answers)
            for category, answer in zip(categories, answers, strict=True):
                counts.setdefault(category, Counter())[normalise(answer)] += 1
    return counts


# ------------------------------------------------------------------------------------------------------------- answers


def _ask(
    config: DigitalConfig, context: StageContext, model: Path, questions: Sequence[Question], ledger: Ledger
) -> None:
    """Have the batches answered that the ledger does not hold as a whole."""
    items = []
    for item in _items(config, questions):
        keys = [(name, item["blank"]) for name in item["ids"]]
        if any(key not in ledger for key in keys):
            ledger.drop(keys)
            items.append(item)
    resources = context.resources
    arguments = {
        "model": str(model),
        "device": resources.device,
        "dtype": resources.dtype,
        "max_new_tokens": config.max_new_tokens,
    }
    total = sum(len(item["ids"]) for item in items)
    started_s = said_s = time.perf_counter()
    done = 0
    for result in map_items(items, AnswerWorker, arguments=arguments, **resources.model_workers):
        ledger.add(
            {"id": name, "blank": bool(result["blank"]), "answer": answer}
            for name, answer in zip(result["ids"], result["answers"], strict=True)
        )
        done += len(result["ids"])
        now_s = time.perf_counter()
        if done == total or now_s - said_s > PROGRESS_EVERY_S:
            said_s = now_s
            context.progress(f"{done}/{total} answers, {now_s - started_s:.0f} s")


def _items(config: DigitalConfig, questions: Sequence[Question]) -> Iterator[dict[str, Any]]:
    """Batches of one file and of questions of like length; the same ones whoever answers them."""
    for blank in (False, True) if config.without_picture else (False,):
        asked = [question for question in questions if question.images or not blank]
        asked.sort(key=lambda q: (q.file, q.images, q.category, len(q.text), q.row))
        for file in dict.fromkeys(question.file for question in asked):
            mine = [question for question in asked if question.file == file]
            for first in range(0, len(mine), config.batch):
                batch = mine[first : first + config.batch]
                yield {
                    "file": str(file),
                    "rows": [question.row for question in batch],
                    "ids": [question.id for question in batch],
                    "blank": blank,
                }


def _print_table(context: StageContext, result: Mapping[str, Any], wall_s: float) -> None:
    """A line a category; shares are of right answers, errors of places beside those of a constant guess."""
    context.progress(
        f"{'category':<18}{'questions':>9}{'right':>7}{'new words':>11}{'commonest':>11}{'no picture':>12}"
        f"{'error, guess':>17}"
    )
    for row in result["categories"]:
        shares = [_percent(row[name]) for name in ("after", "new_words", "majority", "no_picture")]
        error = _centimetres(row["error_cm"]) + _centimetres(row["guess_error_cm"]) if "error_cm" in row else ""
        context.progress(
            f"{row['category']:<18}{row['n']:>9}{shares[0]:>7}{shares[1]:>11}{shares[2]:>11}{shares[3]:>12}{error:>17}"
        )
    context.progress(f"{result['accuracy']:.1%} of {result['n']} held-out questions, {wall_s:.0f} s")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _centimetres(error_cm: float | None) -> str:
    return "       -" if error_cm is None else f"{error_cm:>5.1f} cm"
