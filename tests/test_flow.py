"""Flow matching: the path, the times, the integrator."""

import torch

from blm.model.flow import MAX_TIME, euler, noisy, sample_times


def test_paths_run_from_noise_to_data():
    data, noise = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    start, velocity = noisy(data, noise, torch.zeros(3))
    end, _ = noisy(data, noise, torch.ones(3))
    assert torch.equal(start, noise)
    assert torch.allclose(end, data)
    assert torch.allclose(start + velocity, data, atol=1e-6)


def test_times_follow_the_beta_distribution():
    times = sample_times(200_000, torch.Generator().manual_seed(0))
    assert times.min() >= 0
    assert times.max() <= MAX_TIME
    reference = MAX_TIME * (1 - torch.distributions.Beta(1.5, 1.0).sample((200_000,)))
    for q in (0.1, 0.5, 0.9):
        assert abs(times.quantile(q) - reference[:200_000].quantile(q)) < 0.01


def test_euler_follows_a_straight_field_exactly():
    noise, data = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    assert torch.allclose(euler(lambda x, time: data - noise, noise, 4), data, atol=1e-6)


def test_euler_converges_on_a_curved_field():
    noise = torch.ones(1, 1, 1)
    exact = torch.e
    coarse, fine = (abs(euler(lambda x, time: x, noise, n).item() - exact) for n in (4, 64))
    assert fine < coarse / 10
