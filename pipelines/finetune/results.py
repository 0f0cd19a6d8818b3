"""What Stage I reached, from the counts of `heldout`: figures for `metrics.json` and a table for the person
watching.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from blm.pipelines.finetune.heldout import Counts, add_up

MOST_NATS = 50.0
"""A token that costs more says nothing more about a model; its perplexity would not fit into a table."""
SUMS = {"picture": "all with pictures", "language": "all without"}
"""What the sums are called in the table."""
COLUMNS = (("before", 9), ("after", 8), ("new_words", 11), ("majority", 10), ("hidden", 16))
HEADINGS = {"new_words": "new words", "hidden": "picture hidden"}


def results(before: Counts, after: Counts, hidden: Counts) -> dict[str, Any]:
    """What goes into `metrics.json`.

    `heldout`: a row a category, and sums over questions with a picture (`picture`) and without (`language`), these with
    the perplexity of their answers; shares of right answers, None where there was nothing to ask.
    `accuracy`: the shares by category and over `all`, and how many were asked.
    """
    rows = [
        {"category": name, "picture": after[name]["media"] > 0}
        | _figures(before.get(name, {}), after[name], hidden.get(name, {}))
        for name in sorted(after)
    ]
    heldout: dict[str, Any] = {"categories": rows}
    for name in SUMS:
        mine = [category for category in sorted(after) if (after[category]["media"] > 0) == (name == "picture")]
        first, last, grey = (_sum(counts, mine) for counts in (before, after, hidden))
        heldout[name] = _figures(first, last, grey) | {
            "perplexity_before": _perplexity(first),
            "perplexity_after": _perplexity(last),
        }
    accuracy: dict[str, Any] = {
        when: {name: _share(entry, "right", "n") for name, entry in counts.items()}
        | {"all": _share(_sum(counts, counts), "right", "n")}
        for when, counts in (("before", before), ("after", after))
    }
    asked = {name: int(entry["n"]) for name, entry in after.items()}
    return {"heldout": heldout, "accuracy": accuracy | {"n": asked | {"all": sum(asked.values())}}}


def _figures(before: Mapping[str, float], after: Mapping[str, float], hidden: Mapping[str, float]) -> dict[str, Any]:
    return {
        "n": int(after.get("n", 0)),
        "before": _share(before, "right", "n"),
        "after": _share(after, "right", "n"),
        "new_words": _share(after, "new_right", "new"),
        "majority": _share(after, "usual", "n"),
        "hidden": _share(hidden, "right", "n"),
    }


def _sum(counts: Counts, categories: Iterable[str]) -> dict[str, float]:
    return add_up([counts[category] for category in categories if category in counts])


def _share(entry: Mapping[str, float], part: str, whole: str) -> float | None:
    return entry[part] / entry[whole] if entry.get(whole) else None


def _perplexity(entry: Mapping[str, float]) -> float | None:
    return math.exp(min(entry["nats"] / entry["tokens"], MOST_NATS)) if entry.get("tokens") else None


def table(heldout: Mapping[str, Any]) -> list[str]:
    """Lines to be printed: a row a category, those with pictures first, then their sums and what became of language."""
    rows = sorted(heldout["categories"], key=lambda row: not row["picture"])
    names = [*(row["category"] for row in rows), *SUMS.values()]
    wide = 2 + max(map(len, names))
    heading = "".join(f"{HEADINGS.get(name, name):>{width}}" for name, width in COLUMNS)
    lines = [f"{'category':<{wide}}{'n':>5}{heading}"]
    lines += [_line(row["category"], row, wide) for row in rows]
    lines += [_line(name, heldout[key], wide) for key, name in SUMS.items() if heldout[key]["n"]]
    language = heldout["language"]
    if language["perplexity_before"] is not None:
        lines.append(
            f"language: {language['before']:.1%} right before, {language['after']:.1%} after; perplexity of answers"
            f" {language['perplexity_before']:.4g} before, {language['perplexity_after']:.4g} after"
        )
    return lines


def _line(name: str, row: Mapping[str, Any], wide: int) -> str:
    shares = ("-" if row[key] is None else f"{row[key]:.0%}" for key, _ in COLUMNS)
    return f"{name:<{wide}}{row['n']:>5}" + "".join(
        f"{share:>{width}}" for share, (_, width) in zip(shares, COLUMNS, strict=True)
    )
