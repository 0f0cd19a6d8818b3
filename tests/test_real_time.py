"""Real-time chunking: what is frozen is kept, what is near is followed, and nothing else changes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_policy import write_small_policy
from small_policy_batch import CONFIG, PANDA, TOKENS, WIDTH, make_policy
from torch import Tensor

from blm.model.errors import UserError
from blm.model.flow import euler
from blm.model.normalize import Quantiles
from blm.model.predictor import load_policy_for
from blm.model.real_time import MOST_PULL, PrefixTensors, guided_euler, normalised_prefixes, pull_weight
from blm.model.types import ActionPrefix, Observation, refuse_prefixes

H, A = 16, 3


def known(rows: Tensor, frozen: int, overlap: int) -> PrefixTensors:
    count = len(rows)
    return PrefixTensors(actions=rows, frozen=torch.full((count,), frozen), overlap=torch.full((count,), overlap))


def smooth_flow(x: Tensor, t: float) -> Tensor:
    """The exact flow to smooth Gaussian chunks (covariance exp(-distance / 8)): it knows how rows hang together."""
    place = torch.arange(H, dtype=torch.float64)
    covariance = torch.exp(-(place[:, None] - place).abs() / 8)
    mixed = t**2 * covariance + (1 - t) ** 2 * torch.eye(H, dtype=torch.float64)
    end = t * covariance @ torch.linalg.solve(mixed, x.double())
    start = (1 - t) * torch.linalg.solve(mixed, x.double())
    return (end - start).float()


def test_weights_are_one_where_frozen_then_fall_to_nothing() -> None:
    weights = known(torch.zeros(1, H, A), 4, 10).weights()[0]
    assert weights[:4].tolist() == [1.0] * 4
    assert (weights[4:10].diff() < 0).all()
    assert 0 < weights[9] < weights[4] < 1
    assert weights[10:].tolist() == [0.0] * 6
    left = 6 / 7  # of the paper's c_i at the first row that is not frozen: (10 - 4) / (10 - 4 + 1)
    assert weights[4].item() == pytest.approx(left * (np.exp(left) - 1) / (np.e - 1), rel=1e-6)
    assert known(torch.zeros(1, H, A), 0, 0).weights().sum() == 0
    assert known(torch.zeros(1, H, A), H, H).weights().sum() == H


def test_the_pull_is_bounded_at_both_ends() -> None:
    assert pull_weight(0.0) == MOST_PULL
    assert pull_weight(0.5) == pytest.approx(2.0)
    assert pull_weight(0.999) == MOST_PULL


def test_frozen_rows_are_kept_and_the_rest_joins_them_without_a_jump() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, H, A, generator=generator)
    old = euler(smooth_flow, torch.randn(64, H, A, generator=generator), 20)
    plain = euler(smooth_flow, noise, 20)
    guided = guided_euler(smooth_flow, noise, 20, known(old, 5, 10))
    assert (guided[:, :5] - old[:, :5]).square().mean() < 0.05 * (plain[:, :5] - old[:, :5]).square().mean()
    # The robot executes the old chunk up to row 5 and the new one from there on.
    jump, inside = ((new[:, 5] - old[:, 4]).square().mean() for new in (plain, guided))
    assert inside < 0.25 * jump
    assert inside < 2 * (old[:, 5] - old[:, 4]).square().mean()
    nearness = [(guided[:, i] - old[:, i]).square().mean().item() for i in (2, 7, 9, 15)]
    assert nearness == sorted(nearness)


def test_rows_without_a_prefix_come_out_bit_for_bit_as_without_guidance() -> None:
    policy, inputs = make_policy().eval(), sample_inputs(4)
    plain = policy.sample(PANDA.name, *inputs, 4)
    target = torch.randn(4, CONFIG.chunk, 8, generator=torch.Generator().manual_seed(3))
    some = PrefixTensors(
        actions=target, frozen=torch.tensor([0, 2, 0, 3]), overlap=torch.tensor([0, 8, 0, CONFIG.chunk])
    )
    guided = policy.sample(PANDA.name, *inputs, 4, prefixes=some)
    assert torch.equal(guided[[0, 2]], plain[[0, 2]])
    for row in (1, 3):
        frozen = int(some.frozen[row])
        before, after = ((found[row, :frozen] - target[row, :frozen]).norm() for found in (plain, guided))
        assert after < 0.5 * before
    assert not guided.requires_grad
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_guidance_works_on_inputs_made_in_inference_mode() -> None:
    policy = make_policy().eval()
    with torch.inference_mode():
        inputs = sample_inputs(2)
        inside = policy.sample(PANDA.name, *inputs, 2, prefixes=known(torch.zeros(2, CONFIG.chunk, 8), 2, 6))
    outside = policy.sample(PANDA.name, *sample_inputs(2), 2, prefixes=known(torch.zeros(2, CONFIG.chunk, 8), 2, 6))
    assert torch.equal(inside, outside)


def sample_inputs(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """State, intents, mask and noise of Panda rows."""
    generator = torch.Generator().manual_seed(count)
    state = torch.randn(count, 8, generator=generator)
    intents = torch.randn(count, TOKENS, WIDTH, generator=generator)
    noise = torch.randn(count, CONFIG.chunk, 8, generator=generator)
    return state, intents, torch.ones(count, TOKENS, dtype=torch.bool), noise


# -------------------------------------------------------------------------------------------------- from robot units


def test_prefixes_become_what_the_model_would_have_said() -> None:
    from blm.model.layout import layout_of
    from blm.model.transforms import absolute_chunk

    layout, rng = layout_of("panda"), np.random.default_rng(0)
    spread = np.linspace(0.05, 0.4, H)[:, None] * np.ones(8)  # statistics differ from action to action of a chunk
    statistics = Quantiles(low=tuple(map(tuple, -spread)), high=tuple(map(tuple, spread + 1e-3)))
    state = np.array([[0.1, 0.2, -0.1, -1.5, 0.1, 1.8, 0.5, 0.3]] * 2, np.float32)
    normalised = rng.uniform(-0.5, 0.5, (2, H, 8)).astype(np.float32)
    normalised[..., -1] = 0.5  # a gripper's command stays within [0, 1]
    chunks = absolute_chunk(statistics.unnormalize(normalised), state, layout)
    prefixes = [None, ActionPrefix(actions=chunks[1, :6], frozen=2)]
    found = normalised_prefixes(prefixes, state, layout, statistics, chunk=H)
    assert found is not None
    assert (found.frozen.tolist(), found.overlap.tolist()) == ([0, 2], [0, 6])
    assert np.allclose(found.actions[1, :6].numpy(), normalised[1, :6], atol=1e-4)
    assert torch.isfinite(found.actions).all()
    assert normalised_prefixes([None, None], state, layout, statistics, chunk=H) is None
    long = [ActionPrefix(actions=np.repeat(chunks[0], 2, axis=0), frozen=20)] * 2
    cut = normalised_prefixes(long, state, layout, statistics, chunk=H)
    assert cut is not None
    assert (cut.frozen.tolist(), cut.overlap.tolist()) == ([H, H], [H, H])
    narrow = ActionPrefix(actions=chunks[1, :6, :7], frozen=2)
    with pytest.raises(UserError, match=r"shape \[6, 7\]; panda needs \[P, 8\]"):
        normalised_prefixes([narrow, None], state, layout, statistics, chunk=H)


def test_our_policy_goes_on_from_a_prefix_with_the_same_bits_in_any_batch(tiny_mllm: Path, tmp_path: Path) -> None:
    policy = load_policy_for(write_small_policy(tmp_path / "model", tiny_mllm))
    rng = np.random.default_rng(0)
    states = [np.append(rng.uniform(-0.5, 0.5, 7), 0.5).astype(np.float32) for _ in range(3)]
    states = [np.where(np.arange(8) == 3, -1.5, state).astype(np.float32) for state in states]  # within the elbow's
    observations = [
        Observation(
            images={"front": rng.integers(0, 255, (112, 112, 3), dtype=np.uint8)},
            state=state,
            instruction="push the cube",
            embodiment="panda",
        )
        for state in states
    ]
    seeds = [1, 2, 3]
    plain = policy.infer_batch(observations, seeds)
    targets = [np.repeat(state[None], 10, axis=0) for state in states]  # to stay where it is
    prefixes = [ActionPrefix(actions=target, frozen=4) for target in targets]
    mixed = policy.infer_batch(observations, seeds, [prefixes[0], None, prefixes[2]])
    assert np.array_equal(mixed[1].actions, plain[1].actions)
    for row in (0, 2):
        alone = policy.infer_batch([observations[row]], [seeds[row]], [prefixes[row]])
        assert np.array_equal(alone[0].actions, mixed[row].actions)
        before, after = (np.abs(chunk[row].actions[:4, :7] - targets[row][:4, :7]).mean() for chunk in (plain, mixed))
        assert after < 0.6 * before


def test_prefixes_that_make_no_sense_are_refused() -> None:
    rows = np.zeros((4, 8), np.float32)
    for actions, frozen, reason in (
        (rows[0], 0, "shape"),
        (rows[:0], 0, "shape"),
        (rows * np.nan, 0, "finite"),
        (rows, 5, "5 frozen rows of a prefix of 4"),
        (rows, -1, "-1 frozen rows"),
    ):
        with pytest.raises(UserError, match=reason):
            ActionPrefix(actions=actions, frozen=frozen)
    refuse_prefixes("random", [None])
    with pytest.raises(UserError, match="random cannot go on from a chunk in execution"):
        refuse_prefixes("random", [None, ActionPrefix(actions=rows, frozen=1)])
