"""How an answer is read: without the white space that nobody sees, and as a place if it is three position words."""

import math
import re

from blm.model.prompts import LOC_BINS, LOC_TOKENS, loc_value_m

BLANK_RGB = (122, 116, 104)
"""The grey that becomes zero when the model normalises a picture: nothing is in it."""

Position = tuple[int, int, int]
"""A place as position words: a bin along x, y and z."""

_WORD = re.compile(r"<loc_(\d+)>")


def normalise(text: str) -> str:
    """An answer without the white space that nobody sees."""
    return " ".join(text.split())


def read_position(text: str) -> Position | None:
    """The place that an answer names by three position words and nothing else, or None."""
    bins = [int(number) for number in _WORD.findall(text)]
    if len(bins) != 3 or _WORD.sub("", text).strip() or max(bins) >= LOC_BINS:
        return None
    return bins[0], bins[1], bins[2]


def position_error(truth: Position, answer: Position) -> tuple[float, float]:
    """(mean distance in bins along an axis, distance in metres) of two places."""
    bins = sum(abs(a - b) for a, b in zip(truth, answer, strict=True)) / len(truth)
    return bins, math.dist(_metres(truth), _metres(answer))


def _metres(position: Position) -> list[float]:
    return [loc_value_m(axis, LOC_TOKENS[index]) for axis, index in enumerate(position)]
