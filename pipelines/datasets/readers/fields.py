"""Reading fields of samples that anybody may have written."""

from collections.abc import Iterable, Mapping
from typing import Any

from blm.pipelines.datasets.readers.record import Fault, printable

Sample = Mapping[str, Any]
MOST_FACTS, MOST_FACT = 16, 200
"""How many facts of a sample are kept, and how many characters each."""


def text(sample: Sample, *names: str) -> str:
    """The first of these fields that is there, as text. Fault if it is none."""
    for name in names:
        value = sample.get(name)
        if value is None:
            continue
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return short_number(value)
        raise Fault("wrong_type", f"`{name}` is a {type(value).__name__}, not text")
    raise Fault("wrong_type", f"no `{'` or `'.join(names)}`")


def short_number(value: int | float) -> str:
    """A number in words; Python refuses to print integers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 256:
        raise Fault("wrong_type", "a number of more than seventy digits")
    return str(value)


def facts(sample: Sample, used: Iterable[str]) -> dict[str, Any]:
    """What else a sample says in single words and numbers: kept with the row, if it is not too much."""
    kept: dict[str, Any] = {}
    leave = set(used)
    for name, value in sample.items():
        if not isinstance(name, str) or name in leave or len(kept) >= MOST_FACTS or len(name) > 40:
            continue
        if isinstance(value, str):
            if value and len(value) <= MOST_FACT:
                kept[printable(name)] = printable(value)
        elif isinstance(value, int | float) and abs(value) < 2**53:  # not nan, not inf
            kept[printable(name)] = value
    return kept
