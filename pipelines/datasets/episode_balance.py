"""Which question is asked about which clip, so that neither words nor habits give an answer away.

Every clip gets at most one question: of those it answers, the one whose category, and then whose answer, was asked for
least so far. What cannot be balanced is taken back. In the end categories are of like size, "yes" and "no" equally
many, overall and near enough for every single step asked about, and the letters of multiple choice uniform.
Deterministic.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import NamedTuple

import numpy as np

from blm.pipelines.datasets.balance import SLACK
from blm.pipelines.datasets.episode_sights import WRONG_OPTIONS
from blm.pipelines.datasets.episode_views import Ask
from blm.pipelines.datasets.episode_words import shared_words

ANY_ANSWER = frozenset({"localisation", "localisation_point", "localisation_box"})
"""Categories with as many answers as questions: nothing to balance."""


class Sketch(NamedTuple):
    """What of a question matters here. Many clips share one, so that millions of questions fit into memory."""

    category: str
    topic: str
    answer: str
    options: int
    """How many options it has as multiple choice; 0 if it cannot be asked so."""


class Sketcher:
    """Makes sketches, equal ones once."""

    def __init__(self) -> None:
        self._made: dict[Sketch, Sketch] = {}

    def __call__(self, found: Iterable[Ask]) -> tuple[Sketch, ...]:
        """Sketches of a clip's questions, in order."""
        drawn = (Sketch(ask.category, ask.topic, ask.answer, n_options(ask)) for ask in found)
        return tuple(self._made.setdefault(sketch, sketch) for sketch in drawn)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A clip's question."""

    ask: int
    """Which of the clip's questions."""
    letter: int | None
    """Place of the right answer among the options; None for a free answer."""
    held_out: bool
    """Whether it is put in words that training never uses."""

    def to_text(self) -> str:
        """As one word of a piece of work."""
        return f"{self.ask} {-1 if self.letter is None else self.letter} {int(self.held_out)}"

    @staticmethod
    def from_text(text: str) -> "Chosen":
        """What `to_text` wrote."""
        ask, letter, held_out = (int(word) for word in text.split())
        return Chosen(ask=ask, letter=None if letter < 0 else letter, held_out=bool(held_out))


def n_options(ask: Ask) -> int:
    """How many options a question has as multiple choice; 0 if it cannot be asked so."""
    return min(len(ask.wrong), WRONG_OPTIONS) + 1 if ask.wrong else 0


def choose_questions(clips: Sequence[Sequence[Sketch]], seed: int, *, test: bool) -> list[Chosen | None]:
    """A question for every clip (its questions, none to leave it out), or None."""
    rng = np.random.default_rng([seed, 31, int(test)])
    order = [int(i) for i in rng.permutation(len(clips))]
    picked = _hand_out(clips, order, rng)
    kept = _even(clips, picked, [i for i in order if i in picked])
    chosen: list[Chosen | None] = [None] * len(clips)
    forms: Counter[tuple[str, bool]] = Counter()
    letters: Counter[tuple[str, int]] = Counter()
    for i in kept:
        ask = clips[i][picked[i]]
        options = ask.options
        choice = options > 0 and forms[ask.category, True] < forms[ask.category, False]
        letter = None
        if choice:
            letter = letters[ask.category, options] % options
            letters[ask.category, options] += 1
        held_out = test and bool(rng.random() < 0.5)
        forms[ask.category, choice] += 1
        chosen[i] = Chosen(ask=picked[i], letter=letter, held_out=held_out)
    return chosen


def _hand_out(clips: Sequence[Sequence[Sketch]], order: Iterable[int], rng: np.random.Generator) -> dict[int, int]:
    """Clip -> question: the one whose answer was asked for least so far, times how many answers its category has. So
    categories grow alike, and what one has enough of takes no clip from another. What has the same answer in every clip
    is not asked.
    """
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    kinds: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for sketch in {sketch for found in clips for sketch in found}:
        answers[_topic(sketch)].add(sketch.answer)
        kinds[sketch.category].add(_kind(sketch))
    sizes: Counter[str] = Counter()
    asked: Counter[tuple[str, tuple[str, str]]] = Counter()
    picked: dict[int, int] = {}
    for i in order:
        able = [
            (asked[sketch.category, _kind(sketch)] * len(kinds[sketch.category]), sizes[sketch.category], tie, j)
            for j, (sketch, tie) in enumerate(zip(clips[i], rng.permutation(len(clips[i])).tolist(), strict=True))
            if sketch.category in ANY_ANSWER or len(answers[_topic(sketch)]) > 1
        ]
        if able:
            picked[i] = min(able)[3]
            sketch = clips[i][picked[i]]
            sizes[sketch.category] += 1
            asked[sketch.category, _kind(sketch)] += 1
    return picked


def _kind(sketch: Sketch) -> tuple[str, str]:
    """What within a category is to be asked for equally often: a topic's answers, or topics where answers are many."""
    return sketch.topic, "" if sketch.category in ANY_ANSWER else sketch.answer


def _topic(ask: Sketch) -> tuple[str, str]:
    """Within it, answers are to be balanced. Positive and negative halves of a category are one."""
    return shared_words(ask.category), ask.topic


def _even(clips: Sequence[Sequence[Sketch]], picked: Mapping[int, int], order: Sequence[int]) -> list[int]:
    """The clips that keep their question, in order: answers, then yes and no, then categories made even."""
    asked = {i: clips[i][picked[i]] for i in order}
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    rank: dict[int, int] = {}
    for i in order:
        ask = asked[i]
        rank[i] = counts[_topic(ask)][ask.answer]
        counts[_topic(ask)][ask.answer] += 1
    caps = {topic: _cap(n) for topic, n in counts.items()}
    kept = [i for i in order if asked[i].category in ANY_ANSWER or rank[i] < caps[_topic(asked[i])]]
    by_category: dict[str, list[int]] = defaultdict(list)
    for i in sorted(kept, key=rank.__getitem__):  # what is cut off below are the commonest answers
        by_category[asked[i].category].append(i)
    for words in sorted({shared_words(category) for category in by_category} - by_category.keys()):
        halves = [f"{words}_positive", f"{words}_negative"]
        n = min(len(by_category[half]) for half in halves)
        for half in halves:
            by_category[half] = by_category[half][:n]
    sizes = [len(mine) for mine in by_category.values() if mine]
    most = int(SLACK * median_low(sizes)) if sizes else 0
    remaining = {i for mine in by_category.values() for i in mine[: max(most, 1)]}
    return [i for i in order if i in remaining]


def _cap(counts: Mapping[str, int]) -> int:
    """How often any answer of a topic may be asked for: yes as often as no, never what has but one answer."""
    if len(counts) < 2:
        return 0
    if counts.keys() == {"yes", "no"}:
        return min(counts.values())
    if len(counts) == 2:
        return max(1, int(SLACK * min(counts.values())))
    return max(2, int(SLACK * median_low(counts.values())))
