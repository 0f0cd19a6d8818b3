"""How questions about episodes are put: words for training and words for testing, options."""

import numpy as np

from blm.actors.sim.tasks import TASKS
from blm.pipelines.datasets.episode_views import EPISODE_CATEGORIES, SHAREROBOT
from blm.pipelines.datasets.episode_words import EPISODE_PHRASINGS, shared_words, with_options, wording
from blm.pipelines.datasets.steps import listed
from blm.pipelines.digital.forms import read_options


def test_every_category_has_words_of_its_own_for_testing() -> None:
    assert {shared_words(category) for category in EPISODE_CATEGORIES} == set(EPISODE_PHRASINGS)
    assert len(SHAREROBOT) == 10
    slots = dict.fromkeys(("context", "step", "first", "second", "things", "picture"), "thing")
    rng = np.random.default_rng(0)
    for category in EPISODE_CATEGORIES:
        for task in TASKS.values():
            train = {wording(category, task, slots, rng, held_out=False) for _ in range(40)}
            test = {wording(category, task, slots, rng, held_out=True) for _ in range(40)}
            assert len(train) >= 5
            assert not train & test
            assert not any("{" in text for text in train | test)


def test_yes_and_no_are_asked_for_in_the_same_words() -> None:
    for half in ("success", "discriminative_affordance"):
        assert shared_words(f"{half}_positive") == shared_words(f"{half}_negative")


def test_options_are_lettered_and_read_back() -> None:
    text = with_options("Which?", ("<a>", "<b c>"))
    assert text.split("\n")[1:3] == ["(A) <a>", "(B) <b c>"]
    assert read_options(text) == {"A": "<a>", "B": "<b c>"}
    assert listed("PickCube", ("grasp", "carry")) == "1-<grasp the red cube>, 2-<carry the red cube to the green ball>"
