"""Plain knowledge and small exercises that have nothing to do with robots: what things are and what for, which is
larger, what is in order, how it is spelled, who does it, what follows from a sentence, doing as one is told.

Tables of (ways of asking, answer); `language` makes conversations of them.
"""

from collections.abc import Iterator, Sequence

Asked = tuple[str, tuple[str, ...], str]
"""Topic, ways to ask (two at least), answer."""

KINDS = {
    "an animal": "dog cat horse cow sheep mouse duck lion bear frog",
    "a fruit": "apple pear plum cherry grape peach melon fig",
    "a tool": "hammer saw drill wrench chisel screwdriver",
    "a vehicle": "car bus train ship truck bicycle",
    "a piece of clothing": "shirt hat coat sock glove scarf",
    "a piece of furniture": "table chair bed shelf desk sofa",
    "a plant": "rose oak tulip fern pine",
    "a drink": "tea coffee juice lemonade",
    "an instrument": "piano violin drum flute",
}
USES = (
    "knife cut,pen write,broom sweep,spoon eat,cup drink,key open doors,lamp give light,clock tell the time,bed sleep,"
    "oven bake,camera take pictures,bridge cross water,umbrella keep dry,ladder climb,needle sew,boat cross the sea,"
    "phone talk,scale weigh,towel dry,brush paint"
)
WORKERS = (
    "baker bakes bread,pilot flies planes,teacher teaches children,farmer grows food,doctor heals the sick,"
    "painter paints pictures,singer sings songs,driver drives cars,tailor sews clothes,writer writes books,"
    "builder builds houses,gardener looks after gardens,cook makes meals,sailor sails ships"
)
YOUNG = "dog puppy,cat kitten,cow calf,sheep lamb,horse foal,duck duckling,bear cub,hen chick"
CAPITALS = (
    "France Paris,Italy Rome,Spain Madrid,Germany Berlin,Japan Tokyo,Egypt Cairo,Greece Athens,Norway Oslo,"
    "Austria Vienna,China Beijing,Portugal Lisbon,Russia Moscow"
)
NUMBERS = (
    ("days in a week", "7"), ("months in a year", "12"), ("hours in a day", "24"), ("minutes in an hour", "60"),
    ("seconds in a minute", "60"), ("legs on a dog", "4"), ("legs on a spider", "8"), ("legs on a bird", "2"),
    ("fingers on a hand", "5"), ("wheels on a car", "4"), ("wheels on a bicycle", "2"), ("sides on a triangle", "3"),
    ("sides on a square", "4"), ("faces on a cube", "6"), ("corners on a cube", "8"), ("letters in the alphabet", "26"),
    ("centimetres in a metre", "100"), ("seasons in a year", "4"),
)  # fmt: skip
SMALL_TO_LARGE = ("an ant", "a mouse", "a cat", "a sheep", "a horse", "an elephant", "a house", "a mountain")
SPELLED = (
    "cat dog sun cup red box pen bus arm goal cube ball blue lift push pull move grip robot table green peg bin hand "
    "place door star milk rain tree"
)
NAMES = ("Ann", "Ben", "Eva", "Tom", "Mia", "Max", "Ida", "Leo")
RELATIONS = (("taller", "shorter"), ("older", "younger"), ("faster", "slower"))
WORDS = "cube ball goal robot table green blue red push pull lift place"
TALK = (
    (("Good evening!", "Good evening to you!", "I wish you a good evening!"), "Good evening! What can I do?"),
    (("Good night!", "Sleep well!", "I wish you a good night!"), "Good night!"),
    (("Please help me.", "Can you help me?", "I need your help.", "Would you help me?"), "Yes, gladly. What is it?"),
    (("I am sorry.", "Excuse me.", "Please forgive me."), "That is all right."),
    (("Well done!", "Good work!", "You did that well!", "Nice work!"), "Thank you. That is kind."),
    (("That was wrong.", "That is not right.", "You made a mistake."), "I am sorry. I will try again."),
    (("Please wait.", "Wait a moment, please.", "One moment, please."), "I will wait."),
    (("Are you ready?", "Can we begin?", "Shall we start?"), "Yes, I am ready."),
    (("May I ask you something?", "Can I ask a question?", "I have a question."), "Of course. Please ask."),
    (
        ("Do you like music?", "Do you enjoy music?", "Is music something you like?"),
        "I do not hear it, but I can read.",
    ),
    (("Nice to meet you.", "I am glad to meet you.", "Good to meet you."), "I am glad to meet you too."),
    (("Have a nice day!", "Enjoy your day!", "I wish you a nice day!"), "Thank you, the same to you."),
)


def plain_facts() -> Iterator[Asked]:
    """Everything the tables hold, in a fixed order; no way of asking occurs twice."""
    yield from _kinds()
    yield from _uses_and_workers()
    yield from _comparisons()
    yield from _order()
    yield from _instructions()
    yield from _conclusions()
    for asked, answer in TALK:
        yield "dialogue", asked, answer


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _kinds() -> Iterator[Asked]:
    """What a thing is; and whether it is something, as often yes as no."""
    kinds = list(KINDS)
    for k, kind in enumerate(kinds):
        for i, noun in enumerate(KINDS[kind].split()):
            thing = _a(noun)
            asked = (f"What is {thing}?", f"What kind of thing is {thing}?", f"Say what {thing} is.")
            yield "knowledge", asked, kind
            other = kinds[(k + 1 + i % (len(kinds) - 1)) % len(kinds)]
            for named, answer in ((kind, "yes"), (other, "no")):
                asked = (
                    f"Is {thing} {named}?",
                    f"Would you call {thing} {named}?",
                    f"True or not: {thing} is {named}?",
                )
                yield "yes or no", asked, answer


def _uses_and_workers() -> Iterator[Asked]:
    for noun, use in _pairs(USES):
        thing = _a(noun)
        yield "knowledge", (f"What is {thing} for?", f"What do you use {thing} for?", f"Why have {thing}?"), f"to {use}"
    for noun, work in _pairs(WORKERS):
        yield "knowledge", (f"Who {work}?", f"Name somebody who {work}.", f"What do you call one who {work}?"), _a(noun)
    for noun, young in _pairs(YOUNG):
        asked = (
            f"What is a young {noun} called?",
            f"Name the young of {_a(noun)}.",
            f"What is the child of {_a(noun)}?",
        )
        yield "knowledge", asked, _a(young)
    for country, city in _pairs(CAPITALS):
        asked = (
            f"What is the capital of {country}?",
            f"Name the capital of {country}.",
            f"The capital of {country} is",
        )
        yield "knowledge", asked, city
    for what, number in NUMBERS:
        yield "knowledge", (f"How many {what}?", f"What is the number of {what}?", f"Count the {what}."), number


def _comparisons() -> Iterator[Asked]:
    """The larger and the smaller of two numbers and of two things; the right one stands first half of the time."""
    for a in range(1, 11):
        for b in range(a + 1, 11):
            one, other = (a, b) if (a + b) % 2 else (b, a)
            for word, number in (("larger", b), ("smaller", a)):
                asked = (f"Which is {word}, {one} or {other}?", f"What is the {word} of {one} and {other}?")
                yield "comparing", asked, str(number)
    for i, small in enumerate(SMALL_TO_LARGE):
        for j, large in enumerate(SMALL_TO_LARGE[i + 1 :], start=i + 1):
            first, second = (small, large) if (i + j) % 2 else (large, small)
            for word, answer in (("bigger", large), ("smaller", small)):
                asked = (f"Which is {word}, {first} or {second}?", f"What is {word}: {first} or {second}?")
                yield "comparing", asked, answer


def _order() -> Iterator[Asked]:
    """Three numbers in order, and words letter by letter."""
    turns = ((1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1))
    triples = [(a, b, c) for a in range(1, 8) for b in range(a + 1, 9) for c in range(b + 1, 10)]
    for i, triple in enumerate(triples):
        mixed = " ".join(str(triple[place]) for place in turns[i % len(turns)])
        yield "order", (f"Sort {mixed}.", f"Put {mixed} in order."), " ".join(map(str, triple))
    for word in SPELLED.split():
        yield "order", (f"Spell {word}.", f"How is {word} spelled?", f"Give the letters of {word}."), " ".join(word)


def _instructions() -> Iterator[Asked]:
    """Doing as one is told."""
    words = WORDS.split()
    for i, word in enumerate(words):
        second, third = words[(i + 3) % len(words)], words[(i + 7) % len(words)]
        row = f"{word} {second} {third}"
        yield "instructions", (f"Say {word}.", f"Repeat this word: {word}", f"Write the word {word}."), word
        yield "instructions", (f"Say {word} twice.", f"Write the word {word} twice."), f"{word} {word}"
        yield "instructions", (f"What is the first word of {row}?", f"Name the first of these: {row}"), word
        yield "instructions", (f"What is the last word of {row}?", f"Name the last of these: {row}"), third


def _conclusions() -> Iterator[Asked]:
    """What follows from one sentence."""
    for i, first in enumerate(NAMES):
        for step in (1, 3):
            second = NAMES[(i + step) % len(NAMES)]
            for more, less in RELATIONS:
                said = f"{first} is {more} than {second}."
                for word, answer in ((more, first), (less, second)):
                    asked = (f"{said} Who is {word}?", f"{said} Which of them is {word}?")
                    yield "conclusions", asked, answer


def _pairs(table: str) -> Sequence[tuple[str, str]]:
    """`knife cut,pen write` as pairs of the first word and the rest."""
    found = []
    for entry in table.split(","):
        first, rest = entry.split(maxsplit=1)
        found.append((first, rest))
    return found
