"""The digital part of `evaluate`: held-out questions, answered in the model's own words.

Stage I reports, while it trains, whether each right token would have come next; here the finished model generates its
answers freely (greedy), as it does when it is served, and an answer counts when it is word for word the right one, or
names the right option; what else is said about sentences, points and boxes, see `forms`.
Beside it stand what needs no model (the commonest answer of the training questions) and what needs no eyes (the same
model shown a grey picture): the distance to both is what the model has learned to see.

    answers.jsonl    one line an answer, appended as they come; in the order of the questions when all are there
    digital.json     by category
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.datasets.habits import training_answers
from blm.pipelines.datasets.items import map_items
from blm.pipelines.digital.answer_worker import AnswerWorker
from blm.pipelines.digital.forms import as_meant, read_options
from blm.pipelines.digital.questions import Question, choose, read_questions
from blm.pipelines.digital.scores import category_rows, over_all
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


def evaluate_digital(config: DigitalConfig, context: StageContext) -> dict[str, Any]:
    """Ask, write `digital.json` and return what it holds. UserError for damaged corpora or a missing model."""
    started_s = time.perf_counter()
    corpora, stage1 = context.inputs["corpora"], context.inputs["stage1"]
    questions = choose(read_questions(corpora / "test"), config.questions)
    with Ledger(context.out / "answers.jsonl", KEY) as ledger:
        _ask(config, context, stage1 / "model", questions, ledger)
        place = {name: number for number, name in enumerate(_names(config, questions))}
        ledger.sort(lambda record: place[record["id"], record["blank"]])
        said = {(record["id"], record["blank"]): record["answer"] for record in ledger.records}
    given = _as_meant(questions, said)
    before = read_json(stage1 / "metrics.json").get("accuracy", {}).get("before", {})
    rows = category_rows(questions, given, training_answers(corpora / "train"))
    rows = [{"category": row["category"], "before": before.get(row["category"])} | row for row in rows]
    result = {"n": len(questions), **over_all(rows), "categories": rows}
    write_json(context.out / "digital.json", result)
    _print_table(context, result, time.perf_counter() - started_s)
    return result


def _as_meant(questions: Sequence[Question], said: Mapping[tuple[str, bool], str]) -> dict[tuple[str, bool], str]:
    """Answers in the form in which the right ones stand."""
    meant = {}
    for question in questions:
        options = read_options(question.text) if question.choice else {}
        for blank in (False, True):
            if (question.id, blank) in said:
                meant[question.id, blank] = as_meant(said[question.id, blank], question.answer, options)
    return meant


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
    reads = ("file", "model")
    for result in map_items(items, AnswerWorker, arguments=arguments, reads=reads, **resources.model_workers):
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


def _names(config: DigitalConfig, questions: Sequence[Question]) -> list[tuple[str, bool]]:
    """What identifies each answer, in the order in which they are asked for."""
    return [(name, item["blank"]) for item in _items(config, questions) for name in item["ids"]]


def _print_table(context: StageContext, result: Mapping[str, Any], wall_s: float) -> None:
    """A line a category; shares are of right answers, errors of places beside those of a constant guess."""
    wide = 2 + max(len("category"), *(len(row["category"]) for row in result["categories"]))
    context.progress(
        f"{'category':<{wide}}{'questions':>9}{'right':>7}{'new words':>11}{'commonest':>11}{'no picture':>12}"
        f"{'error, guess':>17}"
    )
    for row in result["categories"]:
        shares = [_percent(row[name]) for name in ("after", "new_words", "majority", "no_picture")]
        context.progress(
            f"{row['category']:<{wide}}{row['n']:>9}{shares[0]:>7}{shares[1]:>11}{shares[2]:>11}{shares[3]:>12}"
            f"{_detail(row):>17}"
        )
    context.progress(f"{result['accuracy']:.1%} of {result['n']} held-out questions, {wall_s:.0f} s")


def _detail(row: Mapping[str, Any]) -> str:
    """What else a category is measured by."""
    if "error_cm" in row:
        return _centimetres(row["error_cm"]) + _centimetres(row["guess_error_cm"])
    if "iou" in row:
        return f"overlap {row['iou']:.2f}"
    if row.get("error_px") is not None:
        return f"{row['error_px']:.1f} px"
    return f"words {row['f1']:.2f}" if row.get("f1") is not None else ""


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _centimetres(error_cm: float | None) -> str:
    return "       -" if error_cm is None else f"{error_cm:>5.1f} cm"
