"""Wilson's interval and McNemar's test against SciPy, and the tables made from episodes."""

import numpy as np
import pytest
from scipy.stats import binomtest

from blm.model.errors import UserError
from blm.pipelines.statistics import (
    backends,
    comparison_rows,
    holm,
    mcnemar,
    success_row,
    summarise_episodes,
    wilson,
)


def episode(cell: str, policy: str, seed: int, failure: str | None = None, steps: int = 20) -> dict[str, object]:
    return {
        "cell": cell,
        "policy": policy,
        "seed": seed,
        "success": failure is None,
        "failure": failure,
        "error": failure == "bad_action",
        "steps": steps,
    }


@pytest.mark.parametrize(("successes", "tries"), [(0, 30), (1, 30), (15, 30), (29, 30), (30, 30), (0, 1), (700, 1200)])
def test_wilson_equals_scipys_interval(successes: int, tries: int) -> None:
    expected = binomtest(successes, tries).proportion_ci(0.95, method="wilson")
    assert wilson(successes, tries) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_stays_inside_and_contains_the_rate() -> None:
    for tries in range(1, 60):
        for successes in range(tries + 1):
            low, high = wilson(successes, tries)
            assert 0.0 <= low <= successes / tries <= high <= 1.0


@pytest.mark.parametrize("tries", [30, 50, 200, 1200])
def test_wilson_covers_the_true_rate_in_94_to_96_percent(tries: int) -> None:
    rng = np.random.default_rng(tries)
    rates = rng.uniform(0.05, 0.95, 40_000)
    intervals = np.array([wilson(successes, tries) for successes in range(tries + 1)])
    low, high = intervals[rng.binomial(tries, rates)].T
    assert 0.94 <= ((low <= rates) & (rates <= high)).mean() <= 0.96


def test_an_interval_over_cells_that_differ_is_never_too_narrow() -> None:
    rng = np.random.default_rng(0)
    for spread in (0.0, 0.2, 0.4):
        cells = np.clip(rng.normal(0.6, spread, 24), 0.0, 1.0)
        intervals = np.array([wilson(successes, 1200) for successes in range(1201)])
        low, high = intervals[rng.binomial(50, cells, (20_000, 24)).sum(1)].T
        assert ((low <= cells.mean()) & (cells.mean() <= high)).mean() >= 0.94


def test_wilson_knows_nothing_without_a_try_and_refuses_impossible_counts() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes in 2 tries"):
        wilson(3, 2)


def test_errors_count_as_failures_and_are_counted_apart() -> None:
    row = success_row(
        [episode("a/T", "blm", i, failure) for i, failure in enumerate([None, "not_at_goal", "bad_action"])]
    )
    assert (row["episodes"], row["successes"], row["errors"]) == (3, 1, 1)
    assert row["rate"] == pytest.approx(1 / 3)
    assert row["failures"] == {"bad_action": 1, "not_at_goal": 1}


def test_median_steps_are_those_of_successes() -> None:
    results = [
        episode("a/T", "blm", 0, steps=10),
        episode("a/T", "blm", 1, steps=30),
        episode("a/T", "blm", 2, "x", 99),
    ]
    assert success_row(results)["median_steps"] == 20
    assert success_row(results[2:])["median_steps"] is None


def test_time_and_smoothness_are_medians_of_what_is_known() -> None:
    results = [
        episode("a/T", "blm", 0) | {"time_to_success_s": 1.0, "jerk_rad_s3": 10.0},
        episode("a/T", "blm", 1) | {"time_to_success_s": 2.0, "jerk_rad_s3": 30.0},
        episode("a/T", "blm", 2, "not_moved") | {"time_to_success_s": None, "jerk_rad_s3": 90.0},
        episode("a/T", "blm", 3, "bad_action") | {"time_to_success_s": None, "jerk_rad_s3": None},
    ]
    row = success_row(results)
    assert (row["median_time_s"], row["median_jerk_rad_s3"]) == (1.5, 30.0)
    assert success_row([episode("a/T", "blm", 0)])["median_time_s"] is None  # of an older version


def test_episodes_of_two_backends_never_stand_in_one_table() -> None:
    light, official = (episode("a/T", "blm", i) | {"backend": f"cpu, {g}"} for i, g in enumerate(("lite", "official")))
    assert summarise_episodes([light, episode("a/T", "random", 0)])["backend"] == "cpu, lite"
    assert backends([official, light]) == ["cpu, lite", "cpu, official"]
    with pytest.raises(UserError, match="'cpu, lite' and by 'cpu, official' cannot stand in one table"):
        summarise_episodes([light, official])


def test_p_values_of_several_questions_are_raised_as_holm_says() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    rng = np.random.default_rng(0)
    found = [min(holm(list(rng.random(24)))) <= 0.05 for _ in range(2000)]
    assert np.mean(found) <= 0.065


def test_episodes_are_summarised_by_cell_robot_task_and_over_all() -> None:
    results = [
        episode("panda/Push", "blm", 0),
        episode("panda/Push", "random", 0, "not_reached"),
        episode("panda/Pick", "blm", 0, "not_moved"),
        episode("xarm6/Push", "blm", 0),
    ]
    summary = summarise_episodes(results)
    assert [(r["cell"], r["policy"], r["rate"]) for r in summary["cells"]] == [
        ("panda/Push", "blm", 1.0),
        ("panda/Push", "random", 0.0),
        ("panda/Pick", "blm", 0.0),
        ("xarm6/Push", "blm", 1.0),
    ]
    assert [(r["robot"], r["rate"]) for r in summary["robots"] if r["policy"] == "blm"] == [
        ("panda", 0.5),
        ("xarm6", 1.0),
    ]
    assert [(r["task"], r["rate"]) for r in summary["tasks"] if r["policy"] == "blm"] == [("Push", 1.0), ("Pick", 0.0)]
    (ours, random) = summary["overall"]
    assert (ours["successes"], ours["episodes"], random["episodes"]) == (2, 3, 1)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (0, 1), (5, 0), (3, 7), (9, 9), (400, 300), (900, 0)])
def test_mcnemar_equals_scipys_binomial_test_of_the_scenes_that_tell_apart(only_first: int, only_second: int) -> None:
    outcomes = (
        [(True, False)] * only_first + [(False, True)] * only_second + [(True, True)] * 20 + [(False, False)] * 10
    )
    first, second = ({("cell", i): pair[k] for i, pair in enumerate(outcomes)} for k in (0, 1))
    found = mcnemar(first, second)
    apart = only_first + only_second
    expected = binomtest(only_first, apart).pvalue if apart else 1.0
    assert (found["pairs"], found["only_first"], found["only_second"]) == (apart + 30, only_first, only_second)
    assert found["p"] == pytest.approx(expected, rel=1e-9)


def test_mcnemar_leaves_out_scenes_that_only_one_of_them_met() -> None:
    assert mcnemar({1: True, 2: False, 3: True}, {2: True, 3: True, 4: False}) == {
        "pairs": 2,
        "only_first": 0,
        "only_second": 1,
        "p": 1.0,
    }


def test_our_policy_is_compared_with_every_other_cell_by_cell_and_over_all() -> None:
    results = [
        *(episode("panda/Push", "blm", seed) for seed in range(6)),
        *(episode("panda/Push", "diffusion_policy", seed, "not_moved") for seed in range(6)),
        *(episode("panda/Pick", "blm", seed) for seed in range(2)),
        *(episode("panda/Pick", "diffusion_policy", seed) for seed in range(1, 3)),
    ]
    rows = comparison_rows(results, "blm")
    assert [(row["cell"], row["policy"], row["pairs"], row["only_first"]) for row in rows] == [
        ("panda/Push", "diffusion_policy", 6, 6),
        ("panda/Pick", "diffusion_policy", 1, 0),
        ("all", "diffusion_policy", 7, 6),
    ]
    assert rows[0]["p"] == rows[2]["p"] == 2 / 2**6
    assert comparison_rows(results, "another") == []
