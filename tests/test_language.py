"""The language set: every fact asked in several ways, some of them kept for testing."""

from collections import Counter

from blm.pipelines.datasets.chat import ChatRow, validate_row
from blm.pipelines.datasets.language import TURNS, facts, language_rows


def asked(row: ChatRow) -> list[tuple[str, str, str]]:
    """(topic, question, answer) of every turn."""
    topics = row.meta.get("categories", [row.category])
    texts = [message["text"] for message in row.messages]
    return list(zip(topics, texts[::2], texts[1::2], strict=True))


def test_questions_have_one_answer_each():
    answers: dict[str, str] = {}
    for fact in facts():
        assert len(fact.questions) >= 2
        for text in fact.questions:
            assert text not in answers, f"{text!r} is asked for {answers[text]!r} and {fact.answer!r}"
            answers[text] = fact.answer


def test_test_questions_are_new_but_their_facts_are_not():
    train, test = language_rows(seed=0)
    old = [turn for row in train for turn in asked(row)]
    new = [turn for row in test for turn in asked(row)]
    assert max(Counter(text for _, text, _ in old + new).values()) == 1
    known = {(topic, answer) for topic, _, answer in old}
    assert {(topic, answer) for topic, _, answer in new} <= known
    assert {topic for topic, _, _ in new} == {topic for topic, _, _ in old}
    for row in train + test:
        validate_row(row)


def test_there_are_hundreds_of_test_questions_and_many_kinds():
    for seed in range(3):
        _, test = language_rows(seed)
        assert 300 <= len(test) <= 420
        counts = Counter(row.category for row in test)
        assert len(counts) >= 10
        assert min(counts.values()) >= 3


def test_yes_is_as_frequent_as_no():
    answers = Counter(fact.answer for fact in facts() if fact.topic == "yes or no")
    assert answers["yes"] == answers["no"] > 40


def test_what_is_compared_has_its_answer_first_half_of_the_time():
    first = 0
    compared = [fact for fact in facts() if fact.topic == "comparing"]
    for fact in compared:
        one, other = fact.questions[0].removesuffix("?").split(", ")[1].split(" or ")
        assert fact.answer in (one, other)
        first += fact.answer == one
    assert first == len(compared) / 2


def test_exercises_are_solved_rightly():
    sorted_up = [fact for fact in facts() if fact.questions[0].startswith("Sort ")]
    for fact in sorted_up:
        given = fact.questions[0].removeprefix("Sort ").removesuffix(".").split()
        assert given != fact.answer.split() == sorted(given)
    for fact in facts():
        if fact.questions[0].startswith("Spell "):
            assert fact.answer.replace(" ", "") == fact.questions[0].removeprefix("Spell ").removesuffix(".")
    sums = {text: fact.answer for fact in facts() for text in fact.questions}
    assert (sums["What is 7 plus 5?"], sums["What is 9 minus 4?"]) == ("12", "5")
    assert sums["Ann is taller than Ben. Who is shorter?"] == "Ben"


def test_copies_ask_the_same_in_other_company():
    once, tests = language_rows(seed=0)
    thrice, same_tests = language_rows(seed=0, copies=3)
    assert same_tests == tests
    counts = Counter(text for row in thrice for _, text, _ in asked(row))
    assert counts == {text: 3 for row in once for _, text, _ in asked(row)}
    talks = {tuple(text for _, text, _ in asked(row)) for row in thrice}
    assert len(talks) == len(thrice) == 3 * len(once)
    assert max(len(talk) for talk in talks) == TURNS


def test_rows_depend_on_the_seed_alone():
    assert language_rows(3) == language_rows(3)
    assert language_rows(3)[1] != language_rows(4)[1]
