"""Comparisons that may stop early: how often they err is simulated, with looks after every round."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy.integrate import quad
from scipy.stats import beta, binomtest

from blm.pipelines.evaluation.sequential import (
    PRIOR,
    STEP,
    Rules,
    Verdict,
    difference_interval,
    exact_p,
    judge,
    log_evidence,
    log_evidence_above,
    summary,
)

Ints = npt.NDArray[np.int64]
RUNS = 3000


def simulated(
    only_first: list[float], only_second: list[float], rounds: int, seed: int, runs: int = RUNS
) -> tuple[Ints, Ints, Ints]:
    """Counts after each round [runs, rounds]: scenes that the first alone did, the second alone, all. The chances are
    those of the cells; a round is a scene of each."""
    rng = np.random.default_rng(seed)
    first, second = (np.zeros((runs, rounds), np.int64) for _ in range(2))
    for chance_first, chance_second in zip(only_first, only_second, strict=True):
        drawn = rng.random((runs, rounds))
        first += drawn < chance_first
        second += (drawn >= chance_first) & (drawn < chance_first + chance_second)
    pairs = np.broadcast_to(len(only_first) * np.arange(1, rounds + 1), (runs, rounds))
    return first.cumsum(1), second.cumsum(1), pairs


def verdicts(counts: tuple[Ints, ...], rules: Rules) -> tuple[Ints, Ints]:
    """The verdict that each simulated comparison stops with, and the scenes that it took."""
    first, second, pairs = counts
    found = judge(first, second, pairs, rules, at_end=False)
    found[:, -1] = judge(first[:, -1], second[:, -1], pairs[:, -1], rules, at_end=True)
    stop = np.where((found != Verdict.OPEN).any(1), (found != Verdict.OPEN).argmax(1), found.shape[1] - 1)
    runs = np.arange(len(found))
    return found[runs, stop], pairs[runs, stop]


EQUAL_POLICIES = {
    "one cell, often apart": ([0.25], [0.25], 300),
    "one cell, rarely apart": ([0.04], [0.04], 600),
    "few scenes": ([0.3], [0.3], 30),
    "six cells": ([0.02, 0.1, 0.2, 0.3, 0.05, 0.15], [0.02, 0.1, 0.2, 0.3, 0.05, 0.15], 100),
    "better in one cell, worse in another": ([0.5, 0.0, 0.2], [0.1, 0.4, 0.2], 150),
    "apart in few cells": ([0.3, 0.05], [0.05, 0.3], 200),
}


@pytest.mark.parametrize("case", EQUAL_POLICIES)
def test_equal_policies_are_called_different_in_at_most_5_percent_however_often_one_looks(case: str) -> None:
    *chances, rounds = EQUAL_POLICIES[case]
    found, _ = verdicts(simulated(*chances, rounds, seed=1), Rules(alpha=0.05))
    assert np.isin(found, (Verdict.FIRST, Verdict.SECOND)).mean() <= 0.05


def test_the_same_looks_with_a_plain_test_err_far_more_often() -> None:
    first, second, _ = simulated([0.25], [0.25], 300, seed=1)
    assert (exact_p(first, second) <= 0.05).any(1).mean() > 0.15
    assert (exact_p(first[:, -1], second[:, -1]) <= 0.05).mean() <= 0.05  # at an end that was fixed it is right


@pytest.mark.parametrize("alpha", [0.01, 0.2])
def test_the_error_rate_is_the_one_asked_for(alpha: float) -> None:
    counts = simulated([0.2], [0.2], 300, seed=2)
    erred = {early: verdicts(counts, Rules(alpha=alpha, on_the_way=early))[0] != Verdict.OPEN for early in (0.0, 0.5)}
    assert erred[0.5].mean() <= alpha
    assert 0.3 * alpha <= erred[0.0].mean() <= alpha


def test_stopping_early_takes_far_fewer_scenes_and_finds_nearly_as_much() -> None:
    counts = simulated([0.15], [0.05], 1200, seed=3, runs=500)
    found, scenes = verdicts(counts, Rules())
    assert (found == Verdict.FIRST).mean() > 0.99
    assert scenes.mean() < 400
    short = tuple(count[:, :300] for count in counts)
    power = {early: (verdicts(short, Rules(on_the_way=early))[0] == Verdict.FIRST).mean() for early in (0.0, 0.5)}
    assert power[0.5] > power[0.0] - 0.05


def test_policies_that_differ_by_the_margin_are_called_equal_in_at_most_5_percent() -> None:
    every_fourth = simulated([0.12], [0.04], 800, seed=4, runs=800)
    found, _ = verdicts(tuple(count[:, 3::4] for count in every_fourth), Rules(margin=0.08))
    assert (found == Verdict.EQUAL).mean() <= 0.05
    found, scenes = verdicts(simulated([0.05], [0.05], 800, seed=5, runs=100), Rules(margin=0.08))
    assert (found == Verdict.EQUAL).mean() > 0.9
    assert scenes.mean() < 500


@pytest.mark.parametrize(("only_first", "only_second"), [([0.15], [0.05]), ([0.02], [0.3]), ([0.4, 0.0], [0.1, 0.2])])
def test_intervals_miss_the_difference_in_at_most_5_percent_however_often_one_looks(
    only_first: list[float], only_second: list[float]
) -> None:
    first, second, pairs = simulated(only_first, only_second, 200, seed=6, runs=1500)
    truth = float(np.mean(np.subtract(only_first, only_second)))
    enough = math.log(2 / 0.05)
    above = log_evidence_above(first, second, pairs, truth) >= enough
    below = log_evidence_above(second, first, pairs, -truth) >= enough
    assert (above | below).any(1).mean() <= 0.05


def test_an_interval_is_where_the_evidence_of_its_bounds_ends() -> None:
    low, high = difference_interval(60, 20, 400)
    enough = math.log(2 / 0.05)
    assert 0.0 < low < 0.1 < high < 0.25
    assert log_evidence_above(60, 20, 400, low) >= enough > log_evidence_above(60, 20, 400, low + 2 * STEP)
    assert log_evidence_above(20, 60, 400, -high) >= enough > log_evidence_above(20, 60, 400, -high + 2 * STEP)
    assert difference_interval(20, 60, 400) == (-high, -low)
    assert difference_interval(0, 0, 0) == (-1.0, 1.0)
    wide, narrow = (np.ptp(difference_interval(3 * n, n, 20 * n)) for n in (3, 30))
    assert narrow < wide


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (7, 3), (12, 40)])
def test_evidence_is_the_likelihood_over_all_biases_against_that_of_a_fair_coin(first: int, second: int) -> None:
    def density(share: float) -> float:
        return share**first * (1 - share) ** second * beta.pdf(share, PRIOR, PRIOR)

    expected = quad(density, 0, 1, epsabs=0)[0] * 2.0 ** (first + second)
    assert float(log_evidence(first, second)) == pytest.approx(math.log(expected), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (5, 0), (3, 7), (9, 9), (400, 300)])
def test_the_exact_p_is_scipys(counts: tuple[int, int]) -> None:
    expected = binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1.0
    assert float(exact_p(*counts)) == pytest.approx(expected, rel=1e-9)


def test_verdicts_name_the_side_and_mirror_each_other() -> None:
    rules = Rules()
    assert judge(20, 1, 50, rules, at_end=False) == Verdict.FIRST
    assert judge(1, 20, 50, rules, at_end=False) == Verdict.SECOND
    assert judge(5, 4, 50, rules, at_end=True) == Verdict.OPEN
    assert judge(20, 1, 50, Rules(on_the_way=0.0), at_end=False) == Verdict.OPEN  # never early
    assert judge(9, 1, 10, Rules(on_the_way=0.0), at_end=True) == Verdict.FIRST  # p = 0.021
    assert judge(9, 1, 10, rules, at_end=True) == Verdict.FIRST  # below half of alpha too
    assert judge(8, 1, 10, rules, at_end=True) == Verdict.OPEN  # p = 0.039 is not
    assert judge(10, 11, 2000, Rules(margin=0.05), at_end=False) == Verdict.EQUAL


def test_the_numbers_of_a_comparison_agree_with_each_other() -> None:
    found = summary(30, 10, 200, Rules())
    assert found["difference"] == pytest.approx(0.1)
    assert found["difference_low"] < 0.1 < found["difference_high"]
    assert found["p"] == pytest.approx(binomtest(30, 40).pvalue)
    assert found["log_evidence"] == pytest.approx(float(log_evidence(30, 10)), abs=1e-6)


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"on_the_way": 1.0}, {"margin": -0.1}])
def test_impossible_rules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="impossible rules"):
        Rules(**wrong)
