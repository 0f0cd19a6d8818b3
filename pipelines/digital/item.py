"""One question of a benchmark, as every part of the evaluation sees it: what is shown, said and expected."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from blm.model.prompts import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """A picture or video where it lies; nothing is decoded before a worker needs it."""

    kind: Literal["image", "video"]
    """What it is."""
    path: str
    """A picture or video file, or a Parquet file."""
    row: int = -1
    """Row of the Parquet file; -1: `path` is the picture or video itself."""
    index: int = 0
    """Which of the row's pictures or videos."""

    @property
    def name(self) -> str:
        """Where it lies, in a word."""
        return self.path if self.row < 0 else f"{self.path} row {self.row} {self.kind} {self.index}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How an answer is drawn from the model."""

    max_new_tokens: int
    """Tokens after which an answer is cut off."""
    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    """Share of probability that tokens are drawn from."""
    seed: int = 0
    """Seed of the drawing."""
    tries: int = 1
    """How often an answer in which nothing can be read is drawn anew."""

    def attempt(self, number: int) -> "Decoding":
        """How attempt `number` is drawn, from 0: every further one is longer and hotter, as in Cosmos-Reason1."""
        if number == 0:
            return self
        return Decoding(
            max_new_tokens=self.max_new_tokens + 256 * number,
            temperature=min(self.temperature + 0.05 * number, 0.9),
            top_p=self.top_p,
            seed=self.seed + number,
            tries=self.tries,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A question of a benchmark."""

    id: str
    """Unique within the benchmark."""
    benchmark: str
    """Its name, see `benchmarks`."""
    category: str
    """Its sub-category; the benchmark's name where there are none."""
    messages: tuple[Message, ...]
    """What is said before the answer, with placeholders for media."""
    media: tuple[Media, ...]
    """In the order of the placeholders."""
    reference: str
    """The right answer; a letter if there are options."""
    question: str
    """The bare question, as a judge reads it."""
    decoding: Decoding
    """How the answer is drawn."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Letter -> text of a multiple-choice question."""
    missing: str = ""
    """The first of its media that is not there; empty if all are."""

    @property
    def key(self) -> tuple[str, str]:
        """What identifies it among all benchmarks."""
        return self.benchmark, self.id
