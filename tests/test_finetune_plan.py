"""Dealing a step's rows to workers and micro batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blm.pipelines.finetune.plan import imbalance, padding_share, plan

LENGTHS = st.lists(st.integers(1, 900), min_size=0, max_size=60)


@given(lengths=LENGTHS, world=st.integers(1, 5), max_tokens=st.integers(50, 4000))
def test_every_row_is_dealt_once_within_the_limit_and_workers_have_equally_many_micro_batches(
    lengths, world, max_tokens
):
    dealt = plan(lengths, world, max_tokens)
    assert len(dealt) == world
    assert len({len(rank) for rank in dealt}) == 1
    batches = [rows for rank in dealt for rows in rank]
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    assert all(len(rows) == 1 or sum(lengths[row] for row in rows) <= max_tokens for rows in batches if rows)
    assert all(rows == sorted(rows) for rows in batches)
    assert dealt == plan(list(lengths), world, max_tokens)


def test_a_long_tailed_step_is_balanced():
    lengths = np.random.default_rng(0).lognormal(5.0, 1.0, 256).astype(int).clip(8, 4000).tolist()
    for world in (2, 16):
        dealt = plan(lengths, world, 4096)
        assert imbalance(lengths, dealt) < 1.1
        tokens = [sum(lengths[row] for rows in rank for row in rows) for rank in dealt]
        assert max(tokens) < 1.1 * min(tokens)


def test_as_few_micro_batches_as_it_takes():
    assert len(plan([100] * 32, 2, 1600)[0]) == 1
    assert len(plan([100] * 32, 2, 1599)[0]) == 2


def test_fewer_rows_than_workers_leave_some_with_an_empty_micro_batch():
    assert plan([5, 7], 4, 100) == [[[1]], [[0]], [[]], [[]]]
    assert plan([], 2, 100) == [[[]], [[]]]


def test_padding_is_what_a_rectangle_would_add():
    assert padding_share([10, 10], [[[0, 1]]]) == 0
    assert padding_share([10, 30], [[[0, 1]]]) == pytest.approx(1 - 40 / 60)
    assert padding_share([], [[[]]]) == 0
