"""`blm bench stage1`: both sides do the same work, and one of them without padding."""

import numpy as np
import pytest

from blm.pipelines.benchmarks import stage1
from blm.pipelines.benchmarks.stage1 import Size, bench_stage1, mixes

SMALL = Size(rows=8, padded_rows=4, micro_tokens=600, longest=300, picture_px=56)


@pytest.fixture(scope="module")
def result() -> dict:
    return bench_stage1("cpu", 1, SMALL)


def test_both_sides_come_to_the_same_loss(result):
    for mix in result["mixes"].values():
        assert mix["loss_packed"] == pytest.approx(mix["loss_padded"], rel=1e-3)
        assert mix["loss_packed"] > 1


def test_rates_are_of_the_same_tokens_and_padding_is_told(result):
    mix = result["mixes"]["instructions"]
    assert 0.05 < mix["padding_of_padded"] < 0.9
    assert mix["ratio"] == pytest.approx(mix["tokens_per_s_packed"] / mix["tokens_per_s_padded"], rel=1e-2)


def test_the_mixes_have_the_lengths_they_are_said_to_have():
    rng = np.random.default_rng(1)
    long_tailed = mixes(4096)["instructions"].lengths(rng, 20_000)
    assert np.median(long_tailed) == pytest.approx(180, rel=0.05)
    assert long_tailed.max() == 4096
    assert mixes(4096)["robots"].lengths(rng, 20_000).std() < 15


def test_a_padded_batch_is_as_long_as_its_longest(tiny_mllm):
    from blm.model.backbone import load_config

    rows = stage1.make_rows(mixes(300)["instructions"], SMALL, load_config(tiny_mllm))
    for batch in stage1.padded_batches(rows, 4):
        assert len(set(batch.lengths)) == 1
    assert max(stage1.padded_batches(rows, 4)[0].lengths) == max(len(row.input_ids) for row in rows[:4])
    packed = stage1.packed_batches(rows, 600)
    assert sum(sum(batch.lengths) for batch in packed) == sum(len(row.input_ids) for row in rows)
