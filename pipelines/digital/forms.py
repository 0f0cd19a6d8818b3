"""How answers are read and scored beyond "right to the word": letters of multiple choice, yes and no, numbers, places
in pictures, and sentences.

A model that was not trained on these corpora says "The answer is (B)." where a trained one says "B". What was meant is
taken, as long as there is no doubt. Sentences are right to the word or not; beside that stands the share of words in
common (token F1), as for answers to reading questions.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from blm.pipelines.digital.answers import normalise, read_position

_OPTION = re.compile(r"^\(([A-Z])\) (.+)$", re.MULTILINE)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_BARE = re.compile(r"\(?([A-Z])\)?[.:)]?")
_LETTER = r"([A-Z])\b(?!(?<=A) (?!(?:or|and|is)\b)[a-z])"  # an A before another word is an article
_STATED = re.compile(rf"(?i:\b(?:answer|option|choice)(?: is)?:?) ?\(?{_LETTER}(?!\)? ?(?:or|and|,|/) ?\(?[A-Z]\b)")
_LONE = re.compile(rf"\b{_LETTER}")
_PLAIN = re.compile(r"yes|no|\d+")
_PIXELS = re.compile(r"\[ *-?\d+(?: *, *-?\d+)+ *\]")
_WORDS = re.compile(r"[a-z0-9]+")
SENTENCE_WORDS = 3
"""A category with answers of at least that many words is also scored by words in common."""


def read_options(question: str) -> dict[str, str]:
    """The options of a multiple-choice question by letter; none if it is not one."""
    return {letter: normalise(text) for letter, text in _OPTION.findall(question)}


def read_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that an answer means: the letter itself, a statement of it, the only letter in it, or an option's
    words. None if it means none of the options, or more than one.
    """
    tagged = _TAGGED.search(answer)
    said = normalise(tagged.group(1) if tagged else answer)
    for match in (_BARE.fullmatch, _STATED.search):
        found = match(said)
        if found and found.group(1) in options:
            return found.group(1)
    worded = [letter for letter, text in options.items() if text.casefold() == said.rstrip(".").casefold()]
    if len(worded) == 1:
        return worded[0]
    letters = set(_LONE.findall(said)) & options.keys()
    return letters.pop() if len(letters) == 1 else None


def as_meant(answer: str, truth: str, options: Mapping[str, str]) -> str:
    """An answer in the form of the truth where it clearly means one: its letter, a plain yes, no or number, pixels."""
    if options:
        return read_letter(answer, options) or answer
    if _PLAIN.fullmatch(truth):
        return answer.strip(" .!").casefold()
    if _PIXELS.fullmatch(truth):
        found = read_pixels(answer)
        return answer if found is None else str(found)
    return answer


def read_pixels(text: str) -> list[int] | None:
    """The only list of whole numbers in a text: a point of two, a box of four. None if there is none, or another."""
    found = _PIXELS.findall(text)
    return [int(number) for number in re.findall(r"-?\d+", found[0])] if len(found) == 1 else None


def form_scores(truths: Sequence[str], answers: Sequence[str], choice: Sequence[bool]) -> dict[str, Any]:
    """What a category came to, by the form of its questions. Empty for one of plain words without options.

    choice: whether a question has options. Shares of right answers `choice` and `free` where a category has both kinds
    or only options; `f1` over free sentences; `error_px` and `iou` over points and boxes, a missing one counting as an
    overlap of 0, and not at all as a distance.
    """
    scores: dict[str, Any] = {}
    right = [answer == truth for truth, answer in zip(truths, answers, strict=True)]
    if any(choice):
        scores["choice"] = _mean([r for r, options in zip(right, choice, strict=True) if options])
        scores["free"] = _mean([r for r, options in zip(right, choice, strict=True) if not options])
    free = [(t, a) for t, a, options in zip(truths, answers, choice, strict=True) if not options]
    sentences = [
        (t, a) for t, a in free if len(_WORDS.findall(t)) >= SENTENCE_WORDS and not _PIXELS.search(t) and not _place(t)
    ]
    if sentences and len(sentences) == len(free):
        scores["f1"] = _mean([token_f1(t, a) for t, a in sentences])
    places = [(read_pixels(t), read_pixels(a)) for t, a in free if _PIXELS.fullmatch(t)]
    if places and len(places) == len(free):
        scores |= _pixel_scores([(truth, answer) for truth, answer in places if truth is not None])
    return scores


def token_f1(truth: str, answer: str) -> float:
    """Harmonic mean of how many of the answer's words are right and how many of the right words it has."""
    right, said = (Counter(_WORDS.findall(text.casefold())) for text in (truth, answer))
    common = (right & said).total()
    return 2 * common / (right.total() + said.total()) if common else 0.0


def overlap(truth: Sequence[int], answer: Sequence[int]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = min(truth[2], answer[2]) - max(truth[0], answer[0])
    height = min(truth[3], answer[3]) - max(truth[1], answer[1])
    shared = max(width, 0) * max(height, 0)
    areas = sum(max(box[2] - box[0], 0) * max(box[3] - box[1], 0) for box in (truth, answer))
    return shared / (areas - shared) if areas > shared else 0.0


def _pixel_scores(pairs: Sequence[tuple[list[int], list[int] | None]]) -> dict[str, Any]:
    read = [(truth, answer) for truth, answer in pairs if answer is not None and len(answer) == len(truth)]
    scores: dict[str, Any] = {
        "unreadable": len(pairs) - len(read),
        "error_px": _mean([_distance_px(truth, answer) for truth, answer in read]),
    }
    if all(len(truth) == 4 for truth, _ in pairs):
        scores["iou"] = sum(overlap(truth, answer) for truth, answer in read) / len(pairs)
    return scores


def _distance_px(truth: Sequence[int], answer: Sequence[int]) -> float:
    """Distance of two points, or of the middles of two boxes."""
    middles = [[fmean(place[axis::2]) for axis in (0, 1)] for place in (truth, answer)]
    return float(((middles[0][0] - middles[1][0]) ** 2 + (middles[0][1] - middles[1][1]) ** 2) ** 0.5)


def _place(text: str) -> bool:
    return read_position(text) is not None


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
