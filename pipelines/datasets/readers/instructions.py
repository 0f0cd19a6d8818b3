"""Single questions in named fields: Alpaca, ms-swift's query and response, question and answer, the Cauldron's texts.

{"instruction": "...", "input": "...", "output": "...", "history": [["...", "..."]], "images": [...]}
{"query": "...", "response": "..."}        {"question": "...", "answer": "..."}
{"images": [...], "texts": [{"user": "...", "assistant": "..."}, ...]}
"""

from collections.abc import Iterator
from typing import Any

from blm.pipelines.datasets.readers.fields import Sample, facts, text
from blm.pipelines.datasets.readers.llava import IMAGE_FIELDS, VIDEO_FIELDS, category, media_fields
from blm.pipelines.datasets.readers.record import Fault, Options, Place, Record
from blm.pipelines.datasets.readers.turns import Turn, build_record

QUESTIONS = ("query", "instruction", "question", "prompt", "problem")
ANSWERS = ("response", "output", "answer", "solution", "completion", "chosen")


def fits(sample: Sample) -> bool:
    """Whether a sample has a question and an answer, or texts of both."""
    if isinstance(sample.get("texts"), list | tuple):
        return True
    return any(name in sample for name in QUESTIONS) and any(name in sample for name in ANSWERS)


def read(sample: Sample, place: Place, options: Options) -> Iterator[Record]:
    """The conversation of one sample."""
    images, videos = media_fields(sample, options)
    used = (*IMAGE_FIELDS, *VIDEO_FIELDS, *QUESTIONS, *ANSWERS, "texts", "history", "system", "input", "category")
    yield build_record(
        list(_turns(sample, options)),
        place=place,
        images=images,
        videos=videos,
        system=sample.get(options.columns.get("system", "system")),
        category=category(sample),
        meta=facts(sample, used),
    )


def _turns(sample: Sample, options: Options) -> Iterator[Turn]:
    if isinstance(sample.get("texts"), list | tuple) and "prompt" not in options.columns:
        for pair in sample["texts"]:
            if not isinstance(pair, dict):
                raise Fault("wrong_type", f"texts hold a {type(pair).__name__}, not user and assistant")
            yield "user", text(pair, "user")
            yield "assistant", text(pair, "assistant")
        return
    yield from _history(sample.get(options.columns.get("history", "history")))
    columns = options.columns
    question = text(sample, *((columns["prompt"],) if "prompt" in columns else QUESTIONS))
    more = sample.get(columns.get("query", "input"))  # what an instruction is about stands on its own line
    if isinstance(more, str) and more.strip():
        question = f"{question}\n{more}"
    yield "user", question
    yield "assistant", text(sample, *((columns["response"],) if "response" in columns else ANSWERS))


def _history(pairs: Any) -> Iterator[Turn]:
    for pair in pairs if isinstance(pairs, list | tuple) else ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Fault("wrong_type", "history that is not pairs of question and answer")
        yield "user", pair[0]
        yield "assistant", pair[1]
