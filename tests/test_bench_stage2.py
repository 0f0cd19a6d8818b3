"""`blm bench stage2`: all sides train the same policy, those with true intents to the same losses."""

import pytest

from blm.pipelines.benchmarks.stage2 import SIDES, bench_stage2

SMALL = [
    "world.image_px=56",
    "world.cameras=[front]",
    "stage1.tiny.width=96",
    "stage1.tiny.depth=3",
    "stage1.tiny.vision_depth=2",
    "stage1.tiny.vision_width=64",
    "intents.layer=2",
    "stage2.batch=8",
    "stage2.policy.width=32",
]


@pytest.fixture(scope="module")
def result() -> dict:
    return bench_stage2("tiny", "cpu", 12, SMALL)


def test_where_intents_come_from_changes_no_loss(result):
    assert result["losses_differ"] == {"live": pytest.approx(0, abs=1e-5), "whole": pytest.approx(0, abs=1e-5)}
    assert result["last_flow"] != result["first_flow"]


def test_every_side_is_measured_and_ratios_are_of_the_rates(result):
    rates = result["samples_per_s"]
    assert set(rates) == set(SIDES)
    assert all(rate > 0 for rate in rates.values())
    assert result["ratio"] == pytest.approx(rates["cached"] / rates["live"], rel=0.02)
    assert result["share_of_memory"] == pytest.approx(rates["cached"] / rates["memory"], rel=0.02)
