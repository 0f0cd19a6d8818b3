"""Which questions are asked about which scene, so that no category can be answered by its commonest answer.

Seen alone, scenes are lopsided: in few of them is the task done, and mostly the next step is to reach.
Looking at all scenes at once, questions are handed out so that every answer of a category is asked for about
equally often. Deterministic.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np

from blm.pipelines.datasets.questions import CHOICES, LOCATIONS, POLICY

SLACK = 1.25
"""How many times more often than a category's middle answer any answer may be asked for."""
TELLTALE = "task"
"""A category whose answer the words of other questions tell."""
_SAME = {POLICY: {POLICY, "next_step"}, "next_step": {POLICY, "next_step"}}
"""Categories with the same answer: a conversation asks for it once."""


def choose_training_questions(scenes: Sequence[Mapping[str, str]], turns: int, seed: int) -> list[list[str]]:
    """For every scene (category -> answer, empty to leave it out) the categories of its conversation, in the
    order they are asked.

    The three localisation questions always; the policy's prompt, but for its commonest answer no more often than for
    all others together (or in a third of the scenes, if that is more); then balanced choices up to `turns`.
    """
    rng = np.random.default_rng([seed, 17])
    chosen = [[category for category in LOCATIONS if category in scene] for scene in scenes]
    order = rng.permutation(len(scenes))
    policy_cap = _policy_cap(scenes)
    asked: Counter[str] = Counter()
    for i in order:
        answer = scenes[i].get(POLICY)
        if answer is not None and len(chosen[i]) < turns and asked[answer] < policy_cap[answer]:
            asked[answer] += 1
            chosen[i].append(POLICY)
    categories = _askable(scenes)
    _hand_out(scenes, chosen, order, categories, [max(turns - len(c), 0) for c in chosen])
    return [_shuffled(of_scene, rng) for of_scene in chosen]


def choose_test_questions(scenes: Sequence[Mapping[str, str]], per_scene: int, seed: int) -> list[list[str]]:
    """For every scene the categories of its separate test questions: one localisation in turn, the rest balanced."""
    rng = np.random.default_rng([seed, 18])
    chosen = [[LOCATIONS[i % len(LOCATIONS)]] if scene else [] for i, scene in enumerate(scenes)]
    categories = (POLICY, *_askable(scenes))
    _hand_out(scenes, chosen, rng.permutation(len(scenes)), categories, [max(per_scene - 1, 0)] * len(scenes))
    return chosen


def evenly(ids: Sequence[str], categories: Sequence[str], limit: int) -> list[int]:
    """At most `limit` places (0: all) of a list of questions: as many of each category as there are and fit, always
    the same ones, in whatever order the list stands.
    """
    by_category: dict[str, list[int]] = {}
    for i in sorted(range(len(ids)), key=lambda i: sha256(ids[i].encode()).digest()):
        by_category.setdefault(categories[i], []).append(i)
    ranked = [(rank, category, i) for category, group in by_category.items() for rank, i in enumerate(group)]
    ranked.sort(key=lambda item: item[:2])
    return [i for _, _, i in ranked][: limit or None]


def _askable(scenes: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Categories that have at least two different answers: with one there is nothing to see."""
    return tuple(c for c in CHOICES if len({scene[c] for scene in scenes if c in scene}) > 1)


def _policy_cap(scenes: Sequence[Mapping[str, str]]) -> dict[str, int]:
    counts = Counter(scene[POLICY] for scene in scenes if POLICY in scene)
    total = sum(counts.values())
    return {answer: min(n, max(total - n, total // 3)) for answer, n in counts.items()}


def _shuffled(categories: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Any order, but what other questions would give away comes first: the task, which their words for the goal tell.
    Without it, half of the time the policy's prompt stands first, right after the pictures, as the policy asks it.
    """
    order = [str(category) for category in rng.permutation(categories)] if categories else []
    first = TELLTALE if TELLTALE in order else POLICY
    if first in order and (first == TELLTALE or rng.random() < 0.5):
        order.remove(first)
        order.insert(0, first)
    return order


def _hand_out(
    scenes: Sequence[Mapping[str, str]],
    chosen: list[list[str]],
    order: np.ndarray,
    categories: Sequence[str],
    room: list[int],
) -> None:
    """Give each scene up to `room` more of `categories`: those whose answer was asked for least so far."""
    counts = {c: Counter(scene[c] for scene in scenes if c in scene) for c in categories}
    caps = {c: SLACK * sorted(n.values())[(len(n) - 1) // 2] for c, n in counts.items() if n}
    asked: dict[str, Counter[str]] = {c: Counter() for c in categories}
    for i in order:
        for _ in range(room[i]):
            free = [
                (asked[c][scenes[i][c]], c)
                for c in categories
                if c in scenes[i] and not _SAME.get(c, {c}) & set(chosen[i]) and asked[c][scenes[i][c]] < caps[c]
            ]
            if not free:
                break
            category = min(free)[1]
            asked[category][scenes[i][category]] += 1
            chosen[i].append(category)
    _trim(scenes, chosen, order, asked)


def _trim(
    scenes: Sequence[Mapping[str, str]],
    chosen: list[list[str]],
    order: np.ndarray,
    asked: Mapping[str, Counter[str]],
) -> None:
    """Take back what went to common answers before it showed how few rare ones there was room for."""
    for category, counts in asked.items():
        if not counts:
            continue
        most = max(1, int(SLACK * sorted(counts.values())[(len(counts) - 1) // 2]))
        for i in order:
            if category in chosen[i] and counts[scenes[i][category]] > most:
                chosen[i].remove(category)
                counts[scenes[i][category]] -= 1
