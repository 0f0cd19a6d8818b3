"""Quantile normalisation and the relative action representation."""

import numpy as np

from blm.model.normalize import (
    CLIP,
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


def test_relative_chunks_invert_and_keep_the_gripper_absolute():
    rng = np.random.default_rng(0)
    chunk, state = rng.uniform(0, 1, (5, 16, 8)).astype(np.float32), rng.uniform(0, 1, (5, 8)).astype(np.float32)
    relative = relative_chunk(chunk, state)
    assert np.allclose(relative[..., :7], chunk[..., :7] - state[:, None, :7])
    assert np.allclose(relative[..., 7], chunk[..., 7] * 2 - 1)
    assert np.allclose(absolute_chunk(relative, state), chunk, atol=1e-6)


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
