"""What an answer to a multiple-choice question means.

`official`: as Cosmos-Reason1's own script reads it, so that its numbers can be had again: the first capital letter, of
anything ("The answer is B" is T). `robust`: the letter that is meant, if there is no doubt. Which one was used is
reported with every score.
"""

import re
from collections.abc import Mapping
from typing import Literal

from blm.pipelines.digital.forms import read_letter

Parser = Literal["robust", "official"]

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_CAPITAL = re.compile(r"[A-Z]")
_ORNAMENT = re.compile(r"\*|\$|\\boxed|\\text|[{}`]")


def extract(answer: str, options: Mapping[str, str], *, parser: Parser, reasoning: bool) -> str:
    """The letter of an answer, empty if there is none. reasoning: whether it was asked for in <answer> tags."""
    return _official(answer, reasoning) if parser == "official" else _robust(answer, options)


def _official(answer: str, reasoning: bool) -> str:
    if reasoning:
        tagged = _ANSWER.search(answer)
        answer = tagged.group(1) if tagged else ""
    found = _CAPITAL.search(answer)
    return found.group() if found else ""


def _robust(answer: str, options: Mapping[str, str]) -> str:
    """A thought is no answer, even one that never ended; the last of several answers counts."""
    tagged = re.findall(_ANSWER, answer)
    said = tagged[-1] if tagged else _THOUGHT.sub(" ", answer)
    return read_letter(_ORNAMENT.sub("", said), options) or ""
