"""A small set of plain questions without pictures, so that a model made from scratch keeps to words as well.

Made from tables: sums, opposites, colours, counting, the calendar, greetings, who it is, robot words, and what
`plain_facts` adds of general knowledge and small exercises. Every fact is asked in several ways; a share of the
(fact, way of asking) pairs is kept for testing. So each test question is new, while its fact and its way of asking
both occur in training, apart from each other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blm.pipelines.datasets.chat import ChatRow, chat_turn
from blm.pipelines.datasets.plain_facts import plain_facts

SOURCE = "language"
TEST_SHARE = 0.35
"""Share of the facts of which one way of asking is held out."""
TURNS = 6
"""Questions in a training conversation: about as long as one about a picture, so that batches need little padding."""

OPPOSITES = (
    "hot cold,big small,fast slow,open closed,up down,left right,day night,wet dry,full empty,early late,hard soft,"
    "heavy light,high low,long short,near far,new old,push pull,strong weak,true false,clean dirty"
)
COLORS = (
    "grass green,snow white,coal black,blood red,a banana yellow,a clear sky blue,a carrot orange,milk white,"
    "a lemon yellow,"
    "a leaf green,a tomato red,chocolate brown,a pea green,salt white,the sun yellow"
)
ROBOT_WORDS = (
    ("a gripper", "a hand that grasps objects"),
    ("a joint", "a place where two links move"),
    ("a link", "a rigid part of a robot"),
    ("a camera", "a sensor that sees"),
    ("a sensor", "a part that measures"),
    ("a motor", "a part that makes things move"),
    ("a policy", "a rule that chooses actions"),
    ("an action", "a command to the robot"),
    ("a trajectory", "a path over time"),
    ("a simulator", "a program that imitates the world"),
    ("an episode", "one try at a task"),
    ("a goal", "what should be reached"),
    ("a robot arm", "a chain of links and joints"),
    ("a rollout", "a run of a policy"),
    ("a controller", "a part that follows targets"),
    ("an embodiment", "the body of a robot"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIALOGUE = (
    (("Hello!", "Hi!", "Good morning!", "Hello there!"), "Hello! How can I help?"),
    (("Thank you!", "Thanks!", "Thanks a lot!", "Many thanks!"), "You are welcome."),
    (("Goodbye!", "Bye!", "See you later!", "Bye bye!"), "Goodbye!"),
    (("How are you?", "How do you do?", "Are you well?"), "I am ready to work."),
    (
        ("Who are you?", "What are you?", "Tell me who you are.", "Introduce yourself."),
        "I am BLM, a model that sees, talks and moves robots.",
    ),
    (("What is your name?", "What are you called?", "Tell me your name."), "My name is BLM."),
    (
        ("What can you do?", "How can you help?", "What are you able to do?"),
        "I can answer questions about pictures and move robots.",
    ),
    (("Can you see pictures?", "Can you look at pictures?", "Do you understand pictures?"), "yes"),
    (("Can you move a robot?", "Can you control a robot?", "Do you move robots?"), "yes"),
    (("Are you a person?", "Are you human?", "Are you a human being?"), "no"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One thing to know."""

    topic: str
    """What kind of thing."""
    questions: tuple[str, ...]
    """Ways to ask for it, at least two."""
    answer: str
    """The answer."""


def facts() -> Iterator[Fact]:
    """Everything the tables hold, in a fixed order."""
    yield from _arithmetic()
    for pair in OPPOSITES.split(","):
        word, opposite = pair.split()
        for a, b in ((word, opposite), (opposite, word)):
            asked = (f"What is the opposite of {a}?", f"Name the opposite of {a}.", f"The opposite of {a} is")
            yield Fact(topic="words", questions=asked, answer=b)
    for pair in COLORS.split(","):
        thing, color = pair.rsplit(maxsplit=1)
        asked = (f"What color is {thing}?", f"Which color has {thing}?", f"Name the color of {thing}.")
        yield Fact(topic="words", questions=asked, answer=color)
    yield from _sequences()
    for word, meaning in ROBOT_WORDS:
        yield Fact(
            topic="robots",
            questions=(f"What is {word}?", f"Explain {word}.", f"Define {word}."),
            answer=meaning,
        )
    for questions, answer in DIALOGUE:
        yield Fact(topic="dialogue", questions=questions, answer=answer)
    for topic, asked_so, answer in plain_facts():
        yield Fact(topic=topic, questions=asked_so, answer=answer)


def _arithmetic() -> Iterator[Fact]:
    for a in range(1, 11):
        for b in range(1, 11):
            asked = (f"What is {a} plus {b}?", f"{a} + {b} =")
            yield Fact(topic="arithmetic", questions=asked, answer=str(a + b))
            if b <= a:
                asked = (f"What is {a} minus {b}?", f"{a} - {b} =")
                yield Fact(topic="arithmetic", questions=asked, answer=str(a - b))


def _sequences() -> Iterator[Fact]:
    for names in (DAYS, MONTHS, NUMBERS):
        for i, name in enumerate(names):
            after, before = names[(i + 1) % len(names)], names[i - 1]
            if names is not NUMBERS or i < len(names) - 1:
                asked = (
                    f"What comes after {name}?",
                    f"What follows {name}?",
                    f"Name what comes after {name}.",
                )
                yield Fact(topic="sequences", questions=asked, answer=after)
            if names is not NUMBERS or i > 0:
                asked = (
                    f"What comes before {name}?",
                    f"What precedes {name}?",
                    f"Name what comes before {name}.",
                )
                yield Fact(topic="sequences", questions=asked, answer=before)


def language_rows(seed: int, copies: int = 1) -> tuple[list[ChatRow], list[ChatRow]]:
    """All training conversations, of `TURNS` questions each, and all test rows, one question each; no question is
    in both. Every training question occurs `copies` times, each time in other company.
    """
    rng = np.random.default_rng([seed, 19])
    train: list[tuple[str, str, str]] = []
    test: list[tuple[str, str, str]] = []
    for fact in facts():
        held_out = int(rng.integers(len(fact.questions))) if rng.random() < TEST_SHARE else None
        for i, text in enumerate(fact.questions):
            (test if i == held_out else train).append((fact.topic, text, fact.answer))
    orders = [rng.permutation(len(train)) for _ in range(copies)]
    talks = [
        [train[i] for i in order[first : first + TURNS]] for order in orders for first in range(0, len(train), TURNS)
    ]
    return [_row("train", i, talk) for i, talk in enumerate(talks)], [
        _row("test", i, [qa]) for i, qa in enumerate(test)
    ]


def _row(split: str, number: int, turns: Sequence[tuple[str, str, str]]) -> ChatRow:
    """A conversation of (topic, question, answer) turns."""
    topics = [topic for topic, _, _ in turns]
    return ChatRow(
        id=f"{SOURCE}-{split}-{number:06d}",
        source=SOURCE,
        category=topics[0] if len(topics) == 1 else "mixed",
        messages=tuple(message for _, text, answer in turns for message in chat_turn(text, answer)),
        meta={"categories": topics} if len(topics) > 1 else {},
    )
