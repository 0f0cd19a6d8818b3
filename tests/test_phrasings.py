"""Ways of asking about scenes: many for training, and those for testing are other words indeed."""

import re

import pytest

from blm.pipelines.datasets.episode_words import EPISODE_PHRASINGS
from blm.pipelines.datasets.phrasings import PHRASINGS, TASK_PHRASINGS, ways

ALL = {**PHRASINGS, **TASK_PHRASINGS}
WITH_EPISODES = {**ALL, **{f"episodes, {category}": phrasing for category, phrasing in EPISODE_PHRASINGS.items()}}


def words(text: str) -> list[str]:
    return re.findall(r"[\w{}']+", text.lower())


def changed_words(one: list[str], other: list[str]) -> int:
    """Fewest words to put in, take out or replace to get from one to the other."""
    row = list(range(len(other) + 1))
    for i, word in enumerate(one, start=1):
        above, row = row, [i]
        for j, partner in enumerate(other, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != partner)))
    return row[-1]


def test_patterns_stand_for_every_choice_of_their_alternatives():
    assert ways("[Find|Locate] the cube[| now].", "Where?") == (
        "Find the cube.",
        "Find the cube now.",
        "Locate the cube.",
        "Locate the cube now.",
        "Where?",
    )


def test_words_are_counted_that_must_change():
    assert changed_words(["a", "b", "c"], ["a", "c"]) == 1
    assert changed_words(["a", "b"], ["b", "a"]) == 2
    assert changed_words([], ["a", "b"]) == 2


@pytest.mark.parametrize("key", ALL, ids=str)
def test_there_are_many_ways_for_training_and_some_for_testing(key):
    train, held_out = ALL[key].train, ALL[key].held_out
    assert len(set(train)) == len(train) >= 12
    assert len(set(held_out)) == len(held_out) >= 2
    assert not any("[" in text or "]" in text or "  " in text for text in train + held_out)


@pytest.mark.parametrize("key", WITH_EPISODES, ids=str)
def test_ways_for_testing_are_other_words_not_a_changed_one(key):
    for new in WITH_EPISODES[key].held_out:
        for known in WITH_EPISODES[key].train:
            assert changed_words(words(new), words(known)) >= 2, (new, known)
            assert sorted(words(new)) != sorted(words(known)), (new, known)


def test_ways_for_testing_are_made_of_words_that_training_knows():
    known = {word for phrasing in ALL.values() for text in phrasing.train for word in words(text)}
    unknown = {word for phrasing in ALL.values() for text in phrasing.held_out for word in words(text)} - known
    assert unknown <= {"compared", "with"}


def test_no_two_categories_share_a_way_of_asking():
    # Where the same words asked for two things, neither could be answered.
    seen: dict[str, str] = {}
    for category, phrasing in PHRASINGS.items():
        for text in phrasing.train + phrasing.held_out:
            assert seen.setdefault(text, category) == category
