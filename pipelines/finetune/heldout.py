"""What Stage I is measured by before and after: held-out questions, seen, unseen and guessed.

A share of right answers says little alone. Beside it stand, category by category, what the untrained model gets, what
always giving training's commonest answer gets, and what the trained model gets when it is shown grey pictures: only
the distance to these is knowledge, and the distance to the last is sight. Questions without a picture tell what became
of plain language, by right answers and by perplexity. `results` makes figures and a table of the counts.

An answer is right if each of its tokens is the most likely one after the true ones before it. The driver chooses the
questions, every rank answers its share of the same batches, and the counts are added up: the figures do not depend on
the number of ranks.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch.distributed as dist
from torch import nn

from blm.model.packing import EncodedRow, PackedBatch
from blm.model.sft import score_answers
from blm.pipelines.datasets.balance import evenly
from blm.pipelines.datasets.habits import habit_key, training_answers, usual_answers
from blm.pipelines.digital.answers import BLANK_RGB
from blm.pipelines.digital.questions import read_questions


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """A held-out question, without its words and what it shows."""

    id: str
    """Of its row; unique in the test corpus."""
    category: str
    """What is asked."""
    usual: bool
    """Whether training's commonest answer to this category is right here."""
    media: bool
    """Whether a picture or a video belongs to it."""
    new_words: bool
    """Whether it is put in words kept out of training."""


class Rows(Protocol):
    """Where the encoded test rows are."""

    @property
    def ids(self) -> list[str]:
        """Of all rows, in order."""

    lengths: np.ndarray
    """Tokens of each row, int [n]."""

    def __getitem__(self, index: int) -> EncodedRow:
        """One row."""


Scores = tuple[Sequence[bool], Sequence[float], Sequence[int]]
"""Of each row: all answer tokens right, summed negative log likelihood (nats) and number of its answer tokens."""
Score = Callable[[Sequence[EncodedRow]], Scores]
"""What answers rows and says how well."""
Counts = dict[str, dict[str, float]]
"""By category: `n` questions, answers `right`, `usual` guesses right, `nats` of negative log likelihood, answer
`tokens`, questions with `media`, `new` questions in words kept out of training and `new_right` answers to them."""


def choose_questions(corpora: Path, limit: int) -> list[HeldOut]:
    """At most `limit` held-out questions (0: all), evenly over their categories; always the same ones.

    corpora: folder with `train/` and `test/`. UserError if a file is damaged or missing.
    """
    found = read_questions(corpora / "test")
    chosen = [found[i] for i in evenly([q.id for q in found], [q.category for q in found], limit)]
    usual = usual_answers(training_answers(corpora / "train", {q.category for q in chosen}))
    return [
        HeldOut(
            id=q.id,
            category=q.category,
            usual=usual.get(habit_key(q.category, q.choice)) == q.answer,
            media=q.images + q.videos > 0,
            new_words=q.new_words,
        )
        for q in chosen
    ]


def scorer(mllm: nn.Module, make_batch: Callable[[Sequence[EncodedRow]], PackedBatch]) -> Score:
    """A function that scores rows by the model. make_batch: packs them, on the model's device."""

    def score(rows: Sequence[EncodedRow]) -> Scores:
        scores = score_answers(mllm, make_batch(rows))
        return scores.correct.tolist(), scores.nll.tolist(), scores.tokens.tolist()

    return score


def with_grey(row: EncodedRow) -> EncodedRow:
    """The row with a plain grey for every picture and every frame of its videos: what becomes zero, or nearly, when
    pixels are normalised. Sizes, hence prompts, stay.
    """
    media = row.media
    return replace(
        row,
        media=replace(
            media,
            images=tuple(_grey(picture) for picture in media.images),
            videos=tuple(_grey(frames) for frames in media.videos),
            inputs={k: v.new_zeros(v.shape) if v.is_floating_point() else v for k, v in media.inputs.items()},
        ),
    )


def _grey(pixels: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.array(BLANK_RGB, dtype=np.uint8), pixels.shape).copy()


def measure(
    questions: Sequence[HeldOut],
    rows: Rows,
    score: Score,
    *,
    rank: int = 0,
    world: int = 1,
    max_tokens: int = 8192,
    hide: Callable[[EncodedRow], EncodedRow] | None = None,
) -> Counts:
    """The counts over all ranks; called by every rank, and each calls `score` equally often.

    max_tokens: bound of a batch's tokens, if a batch has more than one row.
    hide: `with_grey`, to show no pictures; only questions that have some are asked then.
    """
    place = {name: i for i, name in enumerate(rows.ids)}
    asked = [q for q in questions if q.id in place and (q.media or hide is None)]
    batches = _batches(asked, [int(rows.lengths[place[q.id]]) for q in asked], max_tokens)
    counts: Counts = {}
    for turn in range(math.ceil(len(batches) / world)):
        number = turn * world + rank
        batch = batches[number % len(batches)]  # a rank without work repeats one, uncounted, to keep up with the others
        encoded = [rows[place[q.id]] for q in batch]
        scores = score(encoded if hide is None else [hide(row) for row in encoded])
        if number < len(batches):
            _add(counts, batch, scores)
    return _gathered(counts, world)


def _batches(questions: Sequence[HeldOut], lengths: Sequence[int], max_tokens: int) -> list[list[HeldOut]]:
    """Questions of like length together, up to `max_tokens` a batch; the same on every rank."""
    batches: list[list[HeldOut]] = []
    room = 0
    for i in sorted(range(len(questions)), key=lambda i: (lengths[i], questions[i].id)):
        if lengths[i] > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(questions[i])
        room -= lengths[i]
    return batches


def _add(counts: Counts, questions: Sequence[HeldOut], scores: Scores) -> None:
    for question, right, nats, tokens in zip(questions, *scores, strict=True):
        one = {
            "n": 1,
            "right": int(right),
            "usual": int(question.usual),
            "nats": float(nats),
            "tokens": int(tokens),
            "media": int(question.media),
            "new": int(question.new_words),
            "new_right": int(question.new_words and right),
        }
        counts[question.category] = add_up([counts[question.category], one] if question.category in counts else [one])


def add_up(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum of counts; empty of none."""
    return {name: sum(entry[name] for entry in entries) for name in entries[0]} if entries else {}


def _gathered(counts: Counts, world: int) -> Counts:
    """The sum over all ranks, on every rank."""
    if world == 1:
        return counts
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, counts)
    categories = sorted({category for part in parts for category in part})
    return {category: add_up([part[category] for part in parts if category in part]) for category in categories}
