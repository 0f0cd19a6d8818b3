"""A row's losses, gradients and actions are its own: whatever stands beside it, and whoever computes it."""

from dataclasses import replace

import pytest
import torch
from small_policy_batch import (
    CONFIG,
    PANDA,
    PUSHER,
    SEEN,
    WIDTH,
    XARM6,
    draws_of,
    make_batch,
    make_group,
    make_policy,
    rows_of,
    sampled,
)

from blm.model.errors import UserError
from blm.model.options import PolicyConfig
from blm.model.policy import Policy
from blm.model.policy_batch import PolicyBatch, PolicyDraws, make_draws
from blm.model.policy_losses import PolicyLosses, combine, means

RANDOM = replace(CONFIG, state_dropout=0.4, intent_dropout=0.3, intent_noise=0.2, state_noise=0.1, guidance_dropout=0.4)
"""Everything that is drawn in training."""


def mixed() -> PolicyBatch:
    return make_batch(make_group(PANDA, 4, 1, padded=5), make_group(XARM6, 3, 2), make_group(PUSHER, 3, 3, padded=2))


def step(policy: Policy, parts: list[PolicyBatch], draws: PolicyDraws) -> tuple[PolicyLosses, list[torch.Tensor]]:
    """What workers with a part of the rows each come to together: losses of the step, gradients of its loss."""
    policy.zero_grad()
    losses = [policy(part, draws) for part in parts]
    whole = sum(losses[1:], losses[0])
    for one in losses:
        counts = {"flow_count": whole.flow_count.detach(), "future_count": whole.future_count.detach()}
        combine(replace(one, **counts), policy.config).backward(retain_graph=True)
    trained = [p for p in policy.parameters() if p.requires_grad]
    return whole, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trained]


@pytest.mark.parametrize("config", [CONFIG, RANDOM], ids=["plain", "everything random"])
@pytest.mark.parametrize("draws", [1, 3])
def test_two_workers_with_half_the_rows_each_do_what_one_does_with_all(config: PolicyConfig, draws: int) -> None:
    policy, batch = make_policy(config, (PANDA, XARM6, PUSHER)).train(), mixed()
    randomness = draws_of(batch, config, draws=draws)
    whole, gradients = step(policy, [batch], randomness)
    parts = [rows_of(batch, [8, 0, 2, 5, 9]), rows_of(batch, [1, 3, 4, 6, 7])]
    parts = [rows_of(batch, sorted(part.places.tolist())) for part in parts]
    divided, of_parts = step(policy, parts, randomness)
    for name in ("flow_sum", "flow_count", "future_sum", "future_count"):
        assert torch.allclose(getattr(whole, name), getattr(divided, name), rtol=1e-5), name
    largest = max(gradient.abs().max() for gradient in gradients)
    for one, other in zip(gradients, of_parts, strict=True):
        assert torch.allclose(one, other, atol=1e-6 * largest, rtol=1e-4)


def test_other_places_mean_other_noise() -> None:
    policy, batch = make_policy(RANDOM).train(), make_batch(make_group(PANDA, 3, 1))
    randomness = make_draws(RANDOM, seed=0, step=0, batch=6, draws=1, max_action_dim=8)
    here = policy(replace(batch, place=torch.tensor([0, 1, 2])), randomness).flow_sum
    there = policy(replace(batch, place=torch.tensor([3, 4, 5])), randomness).flow_sum
    assert not torch.allclose(here, there, rtol=1e-3)


def test_a_batch_of_several_robots_gives_each_row_the_losses_it_has_alone() -> None:
    policy, batch = make_policy(CONFIG, (PANDA, XARM6, PUSHER)).eval(), mixed()
    randomness = draws_of(batch)
    together = policy(batch, randomness)
    alone = [policy(rows_of(batch, [row]), randomness) for row in range(10)]
    summed = sum(alone[1:], alone[0])
    for name, value in means(together).items():
        assert means(summed)[name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_a_batch_of_several_robots_gives_each_row_the_actions_it_has_alone() -> None:
    policy, batch = make_policy().eval(), make_batch(make_group(PANDA, 2, 1), make_group(XARM6, 3, 2))
    for embodiment, first, n in (("panda", 0, 2), ("xarm6", 2, 3)):
        together = sampled(policy, batch, embodiment)
        noise = torch.linspace(-1, 1, together.numel()).view_as(together)
        group = batch.groups[0 if first == 0 else 1]
        for i in range(n):
            row = slice(first + i, first + i + 1)
            alone = policy.sample(
                embodiment, group.state[i : i + 1], batch.intents[row], batch.mask[row], noise[i : i + 1], 3
            )
            assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


def test_randomness_is_a_pure_function_of_seed_and_step() -> None:
    one, same, other = (make_draws(RANDOM, seed=3, step=step, batch=5, draws=2, max_action_dim=8) for step in (7, 7, 8))
    for name in ("times", "noise", "no_state", "no_intent"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert one.seed == same.seed != other.seed
    assert not torch.equal(one.noise, other.noise)
    assert one.noise.shape == (5, 2, CONFIG.chunk, 8)


def test_what_the_future_holds_never_changes_an_action_by_a_bit() -> None:
    policy, batch = make_policy().eval(), make_batch(make_group(PANDA, 2, 1))
    changed = replace(batch, future_intents=torch.randn(2, 10, WIDTH) * 9, future_mask=~batch.mask)
    assert torch.equal(sampled(policy, changed, "panda"), sampled(policy, batch, "panda"))
    before, after = (policy(one, draws_of(batch)) for one in (batch, changed))
    assert torch.equal(before.flow_sum, after.flow_sum)
    assert not torch.equal(before.future_sum, after.future_sum)


def test_padded_intent_tokens_are_never_seen() -> None:
    policy, batch = make_policy().eval(), make_batch(make_group(PANDA, 2, 1))
    before = sampled(policy, batch, "panda")
    batch.intents[:, SEEN:] = 1e3
    assert torch.equal(sampled(policy, batch, "panda"), before)
    batch.intents[:, 0] = torch.randn(2, WIDTH)
    assert not torch.allclose(sampled(policy, batch, "panda"), before)


def test_guidance_of_one_is_none_and_others_go_along_the_intents() -> None:
    policy, batch = make_policy(replace(CONFIG, guidance_dropout=0.2)).eval(), make_batch(make_group(PANDA, 2, 1))
    group, noise = batch.groups[0], torch.randn(2, CONFIG.chunk, 8)

    def chunk(guidance: float, intents: torch.Tensor = batch.intents, steps: int = 1) -> torch.Tensor:
        return policy.sample("panda", group.state, intents, batch.mask, noise, steps, guidance)

    plain = policy.sample("panda", group.state, batch.intents, batch.mask, noise, 1)
    assert torch.equal(chunk(1.0), plain)
    assert torch.allclose(chunk(1.0 + 1e-6), plain, atol=1e-4)
    blind = chunk(0.0)
    assert torch.allclose(blind, chunk(0.0, torch.randn_like(batch.intents)), atol=1e-6)
    assert not torch.allclose(blind, plain, atol=1e-2)
    assert torch.allclose(chunk(2.0), 2 * plain - blind, atol=1e-4)  # one Euler step is linear in the velocity
    with pytest.raises(UserError, match="guidance_dropout above 0"):
        sampled(make_policy(), batch, "panda", guidance=2.0)


def test_intents_as_bfloat16_are_as_good_as_the_same_numbers_in_float32() -> None:
    policy, batch = make_policy().eval(), make_batch(make_group(PANDA, 2, 1))
    assert batch.future_intents is not None
    stored = replace(batch, intents=batch.intents.bfloat16(), future_intents=batch.future_intents.bfloat16())
    widened = replace(stored, intents=stored.intents.float(), future_intents=stored.future_intents.float())
    one, other = (policy(part, draws_of(batch)) for part in (stored, widened))
    assert torch.equal(one.flow_sum, other.flow_sum)
    assert torch.equal(one.future_sum, other.future_sum)
