"""How answers are scored: exact match with an interval, what guessing would score, and errors of positions.

An answer is text without superfluous white space. A position is three position words.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median_low
from typing import Any

from blm.pipelines.datasets.habits import habit_key, usual_answers
from blm.pipelines.digital.answers import Position, position_error, read_position
from blm.pipelines.digital.forms import form_scores
from blm.pipelines.digital.questions import Question
from blm.pipelines.statistics import wilson

NEAR_BINS = 2
"""An answer at most this far from the truth along every axis is near it: 2 cm in the plane, 1 cm in height."""


def category_rows(
    questions: Sequence[Question], given: Mapping[tuple[str, bool], str], habits: Mapping[str, Counter[str]]
) -> list[dict[str, Any]]:
    """A row of figures for each category, in alphabetical order.

    given: the answers by question and whether the picture was hidden; hidden ones may be left out. habits: how often
    each answer was given in training, see `training_answers`.
    """
    usual = usual_answers(habits)
    rows = []
    for category in sorted({question.category for question in questions}):
        mine = [question for question in questions if question.category == category]
        truths, answers = [q.answer for q in mine], [given[q.id, False] for q in mine]
        blank = [given.get((q.id, True)) for q in mine]
        rows.append(
            {"category": category}
            | score(truths=truths, answers=answers, blank=blank, habits=habits.get(category, Counter()))
            | form_scores(truths, answers, [q.choice for q in mine])
            | {
                "majority": fmean(q.answer == usual.get(habit_key(category, q.choice)) for q in mine),
                "seen_words": _accuracy([q for q in mine if not q.new_words], given),
                "new_words": _accuracy([q for q in mine if q.new_words], given),
            }
        )
    return rows


def _accuracy(questions: Sequence[Question], given: Mapping[tuple[str, bool], str]) -> float | None:
    """Share of right answers, None without questions."""
    return fmean(given[q.id, False] == q.answer for q in questions) if questions else None


def score(
    *, truths: Sequence[str], answers: Sequence[str], blank: Sequence[str | None], habits: Counter[str]
) -> dict[str, Any]:
    """What one category came to.

    truths, answers: of n questions. blank: the answers given without the picture, None where none was asked for.
    habits: how often each answer was the right one in training.
    """
    n = len(truths)
    right = sum(answer == truth for answer, truth in zip(answers, truths, strict=True))
    low, high = wilson(right, n)
    usual = habits.most_common(1)[0][0] if habits else None
    unseen = [answer == truth for answer, truth in zip(blank, truths, strict=True) if answer is not None]
    row = {
        "n": n,
        "after": right / n,
        "low": low,
        "high": high,
        "majority": truths.count(usual) / n if usual is not None else 0.0,
        "no_picture": sum(unseen) / len(unseen) if unseen else None,
    }
    worded = [(truth, answer) for truth, answer in zip(truths, answers, strict=True) if not is_letter(truth)]
    places = [place for truth, _ in worded if (place := read_position(truth)) is not None]
    if places and len(places) == len(worded):
        row |= position_scores(places, [read_position(answer) for _, answer in worded], middle_position(habits))
    return row


def is_letter(truth: str) -> bool:
    """Whether an answer is that to a multiple-choice question."""
    return len(truth) == 1 and truth.isupper()


def position_scores(
    truths: Sequence[Position], answers: Sequence[Position | None], middle: Position | None
) -> dict[str, Any]:
    """Mean errors of the answers that are positions, how many are near or no position, and the error of `middle`."""
    errors = [position_error(t, a) for t, a in zip(truths, answers, strict=True) if a is not None]
    near = [
        max(abs(t - a) for t, a in zip(truth, answer, strict=True)) <= NEAR_BINS
        for truth, answer in zip(truths, answers, strict=True)
        if answer is not None
    ]
    guesses = [position_error(truth, middle) for truth in truths] if middle is not None else []
    return {
        "error_bins": round(fmean(bins for bins, _ in errors), 3) if errors else None,
        "error_cm": round(100 * fmean(metres for _, metres in errors), 3) if errors else None,
        "within_2_bins": sum(near) / len(truths),
        "unreadable": len(truths) - len(errors),
        "guess_error_cm": round(100 * fmean(metres for _, metres in guesses), 3) if guesses else None,
    }


def middle_position(habits: Counter[str]) -> Position | None:
    """The median of the training answers along each axis: what a guess without eyes would best say."""
    places = [place for answer in habits.elements() if (place := read_position(answer)) is not None]
    if not places:
        return None
    x, y, z = (median_low(axis) for axis in zip(*places, strict=True))
    return x, y, z


def over_all(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracies over all categories' questions; `with_picture` and `no_picture` over those that have a picture."""
    n = sum(row["n"] for row in rows)
    right = round(sum(row["after"] * row["n"] for row in rows))
    low, high = wilson(right, n)
    seeing = [row for row in rows if row["no_picture"] is not None]
    n_seeing = sum(row["n"] for row in seeing)
    return {
        "accuracy": right / n,
        "low": low,
        "high": high,
        "majority": sum(row["majority"] * row["n"] for row in rows) / n,
        "with_picture": sum(row["after"] * row["n"] for row in seeing) / n_seeing if seeing else None,
        "no_picture": sum(row["no_picture"] * row["n"] for row in seeing) / n_seeing if seeing else None,
    }
