"""Quantile normalisation and the relative action representation."""

import math

import numpy as np
import pytest

from blm.model.layout import Layout, layout_of
from blm.model.normalize import (
    CLIP,
    MIN_HALF_SPREAD,
    EmbodimentStatistics,
    Quantiles,
    statistics_from_json,
    statistics_hash,
    statistics_to_json,
)
from blm.model.transforms import absolute_chunk, relative_chunk


def test_quantiles_go_to_one_and_back():
    values = np.random.default_rng(0).normal(3.0, 2.0, (5000, 4))
    q = Quantiles.of(values)
    normalised = q.normalize(values)
    assert np.allclose(np.quantile(normalised, (0.01, 0.99), axis=0), [[-1] * 4, [1] * 4], atol=1e-3)
    inside = np.abs(normalised) < CLIP
    assert np.allclose(q.unnormalize(normalised)[inside], values[inside], atol=1e-4)
    assert np.abs(normalised).max() <= CLIP


def test_a_constant_dimension_is_zero_and_comes_back_as_its_constant():
    values = np.tile([0.7, 0.0], (100, 1))
    values[:, 1] = np.linspace(0, 1, 100)
    q = Quantiles.of(values)
    assert not q.normalize(values)[:, 0].any()
    assert np.allclose(q.unnormalize(np.ones((3, 2)))[:, 0], 0.7)


def test_statistics_survive_json_and_their_hash_follows_them():
    q = Quantiles(low=(0.0, -1.0), high=(1.0, 2.0))
    statistics = {"panda": EmbodimentStatistics(state=q, action=q)}
    assert statistics_from_json(statistics_to_json(statistics)) == statistics
    other = {"panda": EmbodimentStatistics(state=q, action=Quantiles(low=(0.0, -1.0), high=(1.0, 2.5)))}
    assert statistics_hash(other) != statistics_hash(statistics)
    steps = EmbodimentStatistics(state=q, action=Quantiles(low=((0.0, -1.0), (0.5, -2.0)), high=((1.0, 2.0),) * 2))
    assert statistics_from_json(statistics_to_json({"panda": steps})) == {"panda": steps}


def test_relative_chunks_invert_and_keep_the_gripper_absolute():
    rng, layout = np.random.default_rng(0), layout_of("panda")
    state = rng.uniform(0, 1, (5, 8)).astype(np.float32)
    chunk = np.clip(state[:, None] + rng.normal(0, 0.1, (5, 16, 8)), layout.lower, layout.upper).astype(np.float32)
    relative = relative_chunk(chunk, state, layout)
    assert np.allclose(relative[..., :7], chunk[..., :7] - state[:, None, :7])
    assert np.array_equal(relative[..., 7], chunk[..., 7])
    assert np.allclose(absolute_chunk(relative, state, layout), chunk, atol=1e-6)


def test_a_layout_says_what_is_measured_from_what_and_within_which_bounds():
    layout = Layout(
        name="turned",
        state_names=("a", "b", "c"),
        action_names=("c", "a"),
        relative_to=(2, -1),
        lower=(-1.0, -math.inf),
        upper=(1.0, math.inf),
        control_hz=10,
    )
    state, chunk = np.array([[1.0, 2.0, 0.5]], np.float32), np.array([[[0.75, 40.0]]], np.float32)
    relative = relative_chunk(chunk, state, layout)
    assert np.array_equal(relative, [[[0.25, 40.0]]])
    assert np.array_equal(absolute_chunk(relative, state, layout), chunk)
    assert np.array_equal(absolute_chunk(relative + 3, state, layout), [[[1.0, 43.0]]])


def test_every_step_of_a_chunk_has_a_scale_of_its_own():
    rng = np.random.default_rng(0)
    growth = np.array([0.1, 1.0, 3.0])
    chunks = rng.normal(0, 1, (4000, 3, 2)) * growth[:, None]
    q = Quantiles.of(chunks)
    assert np.allclose(
        np.quantile(q.normalize(chunks), (0.01, 0.99), axis=0), [[[-1] * 2] * 3, [[1] * 2] * 3], atol=1e-3
    )
    normalised = q.normalize(chunks[:10])
    inside = np.abs(normalised) < CLIP
    assert np.allclose(q.unnormalize(normalised)[inside], chunks[:10][inside], atol=1e-5)
    alone = Quantiles.of(chunks[:, 1])
    assert np.allclose(np.asarray(q.low)[1], alone.low)


def test_padding_has_no_share_in_the_scale_and_a_step_of_padding_alone_takes_the_one_before():
    chunks, real = np.random.default_rng(0).normal(0, 1, (100, 3, 1)), np.ones((100, 3), bool)
    real[50:, 1], real[:, 2] = False, False
    spoilt = np.where(real[..., None], chunks, 1e6)
    q = Quantiles.of(spoilt, real=real)
    assert np.asarray(q.low)[1] == np.quantile(chunks[:50, 1], 0.01)
    assert q.low[2] == q.low[1]


def test_a_step_that_hardly_moves_is_divided_by_the_floor_and_a_dimension_that_never_moves_is_its_constant():
    rng = np.random.default_rng(0)
    chunks = np.stack([rng.normal(0, [[0.001], [0.3]], (2, 3000)).T, np.full((3000, 2), 0.7)], axis=-1)
    q = Quantiles.of(chunks, min_half_spread=MIN_HALF_SPREAD)
    normalised = q.normalize(chunks)
    assert np.abs(normalised[:, 0, 0]).max() < 0.004 / MIN_HALF_SPREAD + 0.05
    assert np.quantile(normalised[:, 1, 0], 0.99) == pytest.approx(1.0, abs=1e-3)
    assert not normalised[..., 1].any()
    assert np.allclose(q.unnormalize(np.ones((1, 2, 2)))[..., 1], 0.7)


def test_robots_in_other_units_bring_thresholds_of_their_own():
    millimetres = np.random.default_rng(0).uniform(-2e-4, 2e-4, (1000, 1))  # in metres
    assert not Quantiles.of(millimetres).normalize(millimetres).any()
    assert np.ptp(Quantiles.of(millimetres, min_spread=1e-6).normalize(millimetres)) > 1.9


def test_a_dimension_that_rarely_moves_is_scaled_by_its_extremes():
    values = np.zeros((1000, 1))
    values[:5] = 1.0  # a gripper that opens in half a per cent of the data
    q = Quantiles.of(values)
    assert np.allclose(q.normalize(values[:6, 0:1]).ravel(), [1, 1, 1, 1, 1, -1])
    assert np.allclose(q.unnormalize(np.array([[1.0], [-1.0]])).ravel(), [1, 0])


def test_trembling_is_not_blown_up():
    values = 0.3 + np.random.default_rng(0).normal(0, 1e-5, (1000, 1))
    assert not Quantiles.of(values).normalize(values).any()


def test_outliers_are_kept_up_to_the_clip():
    q = Quantiles(low=(-1.0,), high=(1.0,))
    assert np.allclose(q.normalize(np.array([[1.2], [9.0], [-9.0]])).ravel(), [1.2, CLIP, -CLIP])
