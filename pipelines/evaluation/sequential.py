"""When a comparison of two policies on the same scenes may stop, so that looking often does not make it wrong often.

A test that is made again after every scene until it is significant calls two equal policies different in the end. So
what is looked at here is no p-value but a wager that could not win if the policies were equal: of the scenes that one
of them does and the other does not, each is a fair coin then, and no way of betting on a fair coin multiplies the
stake by 1 / alpha with a chance above alpha, ever (Ville, 1939). The stake's growth is the evidence:

    evidence of a difference    the stake spread over all biased coins, Beta(2, 2): J. Ville 1939, H. Robbins 1970
    evidence of a bound         the stake spread over bets on each scene's difference, which is -1, 0 or 1, being
                                above the bound on average: I. Waudby-Smith and A. Ramdas, arXiv 2010.09686

The first decides who is better. The second gives an interval for the difference of the success rates that holds
whenever one stops, and shows that two policies are equal within a margin, which ends comparisons that nobody wins.

Half of the error rate is kept for the end that was planned, where McNemar's exact test finds differences that the
wagers are too careful for. Together they err with a chance below alpha.

A look belongs after whole rounds, that is the same number of scenes of every cell: then the wagers stay fair also
where one policy is better in some cells and worse in others, and equal on the whole. (Each scene multiplies a stake by
1 + bet x difference; the product of the means over a round is at most the mean to that power, which is 1.)

Plain functions of counts, for numbers and for arrays of them.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, betaln, logsumexp, xlogy

Float64 = npt.NDArray[np.float64]
Counts = npt.ArrayLike
"""Whole numbers of scenes, 0 or more; arrays of them are worked on together."""

PRIOR = 2.0
"""Both parameters of the Beta: biases from 0.6 to 0.9 are found soonest."""
BETS = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.55, 0.8])
"""Shares of the largest bet that cannot lose all, for the evidence of a bound."""
STEP = 1e-4
"""To which the interval of a difference is exact; what is left over widens it."""


class Verdict(IntEnum):
    """What a comparison has shown so far."""

    OPEN = 0
    """Nothing yet."""
    FIRST = 1
    """The first policy is better."""
    SECOND = 2
    """The second policy is better."""
    EQUAL = 3
    """Their success rates differ by less than the margin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How sure a verdict must be. ValueError for impossible ones."""

    alpha: float = 0.05
    """Greatest chance that two equally good policies are called different."""
    on_the_way: float = 0.5
    """Share of it for looks before the end; 0: there are none, and the end has all."""
    margin: float = 0.0
    """Difference of success rates, as a fraction, below which the two count as equal; 0: that is never said."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1 or not 0 <= self.on_the_way < 1 or not 0 <= self.margin < 1:
            raise ValueError(f"impossible rules: {self}")


def log_evidence(only_first: Counts, only_second: Counts) -> Float64:
    """Natural logarithm of the evidence that the two differ, from the scenes that one alone did."""
    first, second = np.asarray(only_first, np.float64), np.asarray(only_second, np.float64)
    spread: Float64 = betaln(PRIOR + first, PRIOR + second) - betaln(PRIOR, PRIOR)
    return (first + second) * np.log(2.0) + spread


def log_evidence_above(only_first: Counts, only_second: Counts, pairs: Counts, bound: float) -> Float64:
    """Natural logarithm of the evidence that the first's success rate exceeds the second's by more than `bound`.

    pairs: all scenes that both met. bound: in (-1, 1).
    """
    first, second = (np.asarray(count, np.float64)[..., None] for count in (only_first, only_second))
    same = np.asarray(pairs, np.float64)[..., None] - first - second
    bet = BETS / (1 + bound)  # a scene that the second alone did takes at most the whole stake
    grown = xlogy(first, 1 + bet * (1 - bound)) + xlogy(same, 1 - bet * bound) + xlogy(second, 1 - bet * (1 + bound))
    mixed: Float64 = logsumexp(grown, axis=-1) - np.log(len(BETS))
    return mixed


def difference_interval(only_first: int, only_second: int, pairs: int, alpha: float = 0.05) -> tuple[float, float]:
    """(low, high) of the first's success rate less the second's, as fractions.

    Over all looks that anybody takes, the chance is at most `alpha` that one of these intervals misses the truth.
    """
    if pairs == 0:
        return -1.0, 1.0
    enough = np.log(2 / alpha)

    def low(first: int, second: int) -> float:
        excluded, open_ = -1.0, (first - second) / pairs  # evidence falls as the bound rises
        while open_ - excluded > STEP:
            middle = (excluded + open_) / 2
            if log_evidence_above(first, second, pairs, middle) >= enough:
                excluded = middle
            else:
                open_ = middle
        return excluded

    return low(only_first, only_second), -low(only_second, only_first)


def exact_p(only_first: Counts, only_second: Counts) -> Float64:
    """McNemar's exact two-sided p, as `statistics.mcnemar` has it, for arrays."""
    first, second = np.asarray(only_first, np.int64), np.asarray(only_second, np.int64)
    apart = first + second
    tail = bdtr(np.minimum(first, second).astype(np.float64), np.maximum(apart, 1), 0.5)
    p: Float64 = np.where(apart == 0, 1.0, np.minimum(1.0, 2 * tail))
    return p


def judge(
    only_first: Counts, only_second: Counts, pairs: Counts, rules: Rules, *, at_end: bool
) -> npt.NDArray[np.int64]:
    """A `Verdict` for each of the counts, at one look. at_end: whether this is the end that was planned."""
    first, second = np.asarray(only_first, np.int64), np.asarray(only_second, np.int64)
    found = np.full(np.broadcast(first, second).shape, int(Verdict.OPEN))
    if rules.margin:
        enough = np.log(1 / rules.alpha)  # both bounds must be shown, so neither needs more
        above = log_evidence_above(first, second, pairs, -rules.margin) >= enough
        below = log_evidence_above(second, first, pairs, -rules.margin) >= enough
        found[above & below] = Verdict.EQUAL
    sure = np.zeros(found.shape, bool)
    if rules.on_the_way:
        sure |= log_evidence(first, second) >= -np.log(rules.alpha * rules.on_the_way)
    if at_end:
        sure |= exact_p(first, second) <= rules.alpha * (1 - rules.on_the_way)
    found[sure & (first > second)] = Verdict.FIRST
    found[sure & (first < second)] = Verdict.SECOND
    return found


def summary(only_first: int, only_second: int, pairs: int, rules: Rules) -> dict[str, Any]:
    """What the counts say in numbers: the difference with its interval, the evidence, and McNemar's p."""
    low, high = difference_interval(only_first, only_second, pairs, rules.alpha)
    return {
        "pairs": pairs,
        "only_first": only_first,
        "only_second": only_second,
        "difference": round((only_first - only_second) / pairs, 6) if pairs else 0.0,
        "difference_low": low,
        "difference_high": high,
        "log_evidence": round(float(log_evidence(only_first, only_second)), 6),
        "p": float(exact_p(only_first, only_second)),
    }
