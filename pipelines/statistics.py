"""Success rates with the uncertainty that few episodes leave, and whether two policies differ at all.

Wilson's interval (E. B. Wilson, 1927) for a share of yes among n tries: unlike the usual plus-minus it stays
inside [0, 1] and is sensible for 0 of 30 and 30 of 30, which is what policies give. An interval over several cells
treats their episodes as one sample; where the cells differ that makes it a little too wide, never too narrow.

McNemar's test (Q. McNemar, 1947), exact, for two policies on the same scenes: only scenes that one of them does and
the other does not tell them apart. It sees differences that two overlapping intervals hide, since an easy scene is
easy for both.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import NormalDist, median
from typing import Any

from blm.model.errors import UserError

CONFIDENCE = 0.95

Result = Mapping[str, Any]
"""One line of `episodes.jsonl`: an `EpisodeResult` as plain values."""


def wilson(successes: int, tries: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """(low, high) of the success rate; without a try, (0, 1). ValueError for impossible counts."""
    if not 0 <= successes <= tries:
        raise ValueError(f"{successes} successes in {tries} tries")
    if tries == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / tries
    shrink = 1 + z * z / tries
    centre = (rate + z * z / (2 * tries)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / tries + z * z / (4 * tries * tries))
    # At the ends the formula gives 0 and 1 exactly, but for rounding.
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    high = 1.0 if successes == tries else min(centre + half, 1.0)
    return low, high


def mcnemar(first: Mapping[Hashable, bool], second: Mapping[Hashable, bool]) -> dict[str, Any]:
    """Two policies' successes by scene, for example (cell, seed); scenes that only one of them met are left out.

    Returns `pairs`, `only_first` and `only_second` (scenes that one alone did), and `p`: the two-sided exact chance of
    so uneven a split, or a more uneven one, if neither were better; 1.0 where no scene tells them apart.
    """
    pairs = first.keys() & second.keys()
    only_first = sum(first[key] and not second[key] for key in pairs)
    only_second = sum(second[key] and not first[key] for key in pairs)
    apart = only_first + only_second
    tail = sum(math.comb(apart, k) for k in range(min(only_first, only_second) + 1))
    # Whole numbers up to here: 2 ** apart leaves the range of floats for a thousand scenes.
    p = min(1.0, 2 * tail / (1 << apart))
    return {"pairs": len(pairs), "only_first": only_first, "only_second": only_second, "p": p}


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several questions asked at once, raised so that the smallest may be read like a single one.

    S. Holm, 1979: the chance that any of them is at most alpha where nothing is to be found is at most alpha.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, reached = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        reached = max(reached, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = reached
    return adjusted


def backends(results: Iterable[Result]) -> list[str]:
    """What simulated these episodes, for example ["cpu, lite"]; episodes that do not say are left out."""
    return sorted({result["backend"] for result in results if result.get("backend")})


def one_backend(results: Iterable[Result]) -> str:
    """What simulated all of these episodes; "" if none says. UserError for several: no table may mix them."""
    found = backends(results)
    if len(found) > 1:
        raise UserError(
            f"episodes simulated by {' and by '.join(repr(name) for name in found)} cannot stand in one table: physics"
            " and robots differ; evaluate them into folders of their own"
        )
    return found[0] if found else ""


def success_row(results: Sequence[Result]) -> dict[str, Any]:
    """Counts, rate and interval of some episodes. Errors are failures, and are counted apart as well.

    `median_time_s` is of successes, in simulated seconds; `median_jerk_rad_s3`, how roughly it moved, of all.
    """
    successes = sum(bool(result["success"]) for result in results)
    low, high = wilson(successes, len(results))
    steps = [result["steps"] for result in results if result["success"]]
    return {
        "episodes": len(results),
        "successes": successes,
        "rate": successes / len(results) if results else 0.0,
        "low": low,
        "high": high,
        "errors": sum(bool(result["error"]) for result in results),
        "failures": dict(sorted(Counter(r["failure"] for r in results if not r["success"]).items())),
        "median_steps": median(steps) if steps else None,
        "median_time_s": _median(result.get("time_to_success_s") for result in results if result["success"]),
        "median_jerk_rad_s3": _median(result.get("jerk_rad_s3") for result in results),
    }


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 4) if known else None


def success_rows(results: Iterable[Result], name: str, key: Callable[[Result], str]) -> list[dict[str, Any]]:
    """A row for each value of `key` and each policy, in order of occurrence; the value stands under `name`."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((key(result), result["policy"]), []).append(result)
    return [{name: value, "policy": policy, **success_row(group)} for (value, policy), group in groups.items()]


def comparison_rows(results: Sequence[Result], ours: str) -> list[dict[str, Any]]:
    """`mcnemar` of `ours` against every other policy: a row for each cell, then one for all (`cell` is "all")."""
    by_policy: dict[str, dict[Hashable, bool]] = {}
    for result in results:
        by_policy.setdefault(result["policy"], {})[result["cell"], result["seed"]] = bool(result["success"])
    cells = list(dict.fromkeys(result["cell"] for result in results))
    rows = []
    for policy in [name for name in by_policy if name != ours and ours in by_policy]:
        for cell in [*cells, "all"]:
            first, second = (
                {key: success for key, success in by_policy[name].items() if cell in ("all", key[0])}  # type: ignore[index]
                for name in (ours, policy)
            )
            found = mcnemar(first, second)
            if found["pairs"]:
                rows.append({"cell": cell, "policy": policy} | found)
    return rows


def summarise_episodes(results: Sequence[Result], *, ours: str = "blm") -> dict[str, Any]:
    """Success by cell, by robot, by task and over all, a row for each policy; and `ours` compared with the others.

    `backend` names what simulated them; UserError if that differs among them.
    """
    return {
        "backend": one_backend(results),
        "cells": success_rows(results, "cell", lambda result: result["cell"]),
        "robots": success_rows(results, "robot", lambda result: result["cell"].partition("/")[0]),
        "tasks": success_rows(results, "task", lambda result: result["cell"].partition("/")[2]),
        "overall": success_rows(results, "all", lambda _: "all"),
        "compared": comparison_rows(results, ours),
    }
