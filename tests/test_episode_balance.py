"""Which questions about episodes are asked: even in categories, answers, letters and topics."""

from collections import Counter

import numpy as np

from blm.pipelines.datasets.episode_balance import Chosen, Sketch, Sketcher, choose_questions
from blm.pipelines.datasets.episode_views import Ask


def lopsided(n: int = 900) -> list[tuple[Sketch, ...]]:
    """Three in four are negative; one noun is always there; places are all different."""
    rng = np.random.default_rng(1)
    sketched = Sketcher()
    clips = []
    for i in range(n):
        half = "positive" if rng.random() < 0.25 else "negative"
        step = str(rng.choice(["grasp", "push"]))
        found = [
            Ask(category=f"success_{half}", answer="yes" if half == "positive" else "no", topic=step, wrong=("x",)),
            Ask(category="success_negative", answer="no", topic="only ever no", wrong=("yes",)),
            Ask(category="localisation_point", answer=str([i, i]), topic="gripper"),
            Ask(category="localisation_point", answer=str([i, i + 1]), topic="cube"),
            Ask(category="counting", answer="1", topic="arms", wrong=("0", "2", "3")),
            Ask(category="counting", answer=str(int(rng.random() < 0.1)), topic="balls", wrong=("2", "3", "4")),
        ]
        if rng.random() < 0.5:
            answer = str(rng.choice(["<a>", "<b>", "<c>"], p=[0.8, 0.1, 0.1]))
            found.append(Ask(category="planning", answer=answer, wrong=("<d>", "<e>", "<f>", "<g>")))
        clips.append(sketched(found))
    return clips


def picked(clips: list[tuple[Sketch, ...]], chosen: list[Chosen | None]) -> list[tuple[Sketch, Chosen]]:
    return [(clips[i][one.ask], one) for i, one in enumerate(chosen) if one is not None]


def test_categories_answers_and_letters_come_out_even() -> None:
    clips = lopsided()
    found = picked(clips, choose_questions(clips, seed=0, test=False))
    sizes = Counter(ask.category for ask, _ in found)
    assert sizes["success_positive"] == sizes["success_negative"] > 40
    assert max(sizes.values()) <= 1.3 * sorted(sizes.values())[len(sizes) // 2]
    topics = Counter((ask.topic, ask.answer) for ask, _ in found if ask.category.startswith("success"))
    assert {topic for topic, _ in topics} == {"grasp", "push"}, "what only ever has one answer is not asked"
    for step in ("grasp", "push"):
        assert topics[step, "no"] <= 1.3 * topics[step, "yes"]
    balls = Counter(ask.answer for ask, _ in found if ask.category == "counting")
    assert max(balls.values()) <= 1.3 * min(balls.values())
    plans = Counter(ask.answer for ask, _ in found if ask.category == "planning")
    assert max(plans.values()) <= 1.3 * sorted(plans.values())[1], "of four times as many"
    for category in ("planning", "counting"):
        letters = Counter(one.letter for ask, one in found if ask.category == category and one.letter is not None)
        assert set(letters) == {0, 1, 2, 3}
        assert max(letters.values()) - min(letters.values()) <= 1
        free = sum(one.letter is None for ask, one in found if ask.category == category)
        assert abs(letters.total() - free) <= 1
    places = Counter(ask.topic for ask, one in found if ask.category == "localisation_point" and one.letter is None)
    assert places.total() == sizes["localisation_point"], "a place in a picture is no matter of choice"
    assert max(places.values()) <= 1.3 * min(places.values()), "each thing is asked for"


def test_test_questions_are_half_in_new_words_and_training_ones_never() -> None:
    clips = lopsided()
    assert not any(one.held_out for _, one in picked(clips, choose_questions(clips, seed=0, test=False)))
    found = picked(clips, choose_questions(clips, seed=0, test=True))
    for form in (True, False):
        new = [one.held_out for _, one in found if (one.letter is not None) == form]
        assert 0.4 < np.mean(new) < 0.6


def test_the_choice_depends_on_the_seed_alone_and_survives_being_written_down() -> None:
    clips = lopsided(200)
    chosen = choose_questions(clips, seed=1, test=True)
    assert chosen == choose_questions(clips, seed=1, test=True)
    assert chosen != choose_questions(clips, seed=2, test=True)
    assert [Chosen.from_text(one.to_text()) for one in chosen if one] == [one for one in chosen if one]
    assert choose_questions([(), *clips], seed=1, test=False)[0] is None
