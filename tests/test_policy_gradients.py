"""Where gradients go, and where they must not: padding, other robots, the target, what is hidden."""

from dataclasses import replace

import pytest
import torch
from small_policy_batch import (
    CONFIG,
    PANDA,
    PUSHER,
    SEEN,
    XARM6,
    draws_of,
    make_batch,
    make_group,
    make_policy,
)

from blm.model.errors import UserError
from blm.model.options import PolicyConfig
from blm.model.policy import Policy
from blm.model.policy_batch import PolicyBatch
from blm.model.policy_losses import combine


def gradients(policy: Policy, batch: PolicyBatch) -> dict[str, torch.Tensor | None]:
    """Of the training loss, by parameter."""
    policy.zero_grad()
    combine(policy(batch, draws_of(batch, policy.config)), policy.config).backward()
    return {name: parameter.grad for name, parameter in policy.named_parameters()}


def test_a_robot_that_is_not_in_the_batch_gets_no_gradient() -> None:
    policy = make_policy()
    found = gradients(policy, make_batch(make_group(PANDA, 2, 1)))
    assert all(found[f"robots.xarm6.{name}"] is None for name, _ in policy.robots["xarm6"].named_parameters())
    for name, _ in policy.robots["panda"].named_parameters():
        gradient = found[f"robots.panda.{name}"]
        assert gradient is not None
        assert gradient.any(), name


def test_a_robot_has_weights_for_its_own_dimensions_alone() -> None:
    """Nothing is padded to the widest robot, so there is no weight that a missing dimension could move."""
    policy = make_policy(CONFIG, (PANDA, XARM6, PUSHER))
    for layout in (PANDA, XARM6, PUSHER):
        head = policy.robots.of(layout.name)
        assert head.state_encoder[0].in_features == layout.state_dim
        assert head.action_encoder[0].in_features == layout.action_dim
        assert head.action_decoder[-1].out_features == layout.action_dim
    batch = make_batch(make_group(PANDA, 3, 1), make_group(PUSHER, 3, 2))
    before = gradients(policy, batch)
    wide = draws_of(batch)
    wide.noise[3:, ..., PUSHER.action_dim :] = torch.nan  # noise of dimensions that a pusher lacks
    policy.zero_grad()
    combine(policy(batch, wide), policy.config).backward()
    for name, parameter in policy.named_parameters():
        one, other = before[name], parameter.grad
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.equal(one, other)


def test_padded_actions_have_no_share_in_loss_or_gradient_of_the_decoder() -> None:
    policy = make_policy()
    for layer in policy.robots["panda"].action_encoder:  # noisy padding is part of the sequence: make it invisible
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.zeros_(layer.weight)
    padded, changed = make_group(PANDA, 3, 1, padded=5), make_group(PANDA, 3, 1, padded=5)
    changed.actions[:, -5:] = 50.0
    one, other = (gradients(policy, make_batch(group)) for group in (padded, changed))
    assert all(torch.equal(one[n], other[n]) for n in one if one[n] is not None and "action_encoder" not in n)
    counted = policy(make_batch(padded), draws_of(make_batch(padded)))
    assert counted.flow_count == 3 * (CONFIG.chunk - 5) * 8


def test_padded_intent_tokens_get_no_gradient() -> None:
    policy, batch = make_policy(), make_batch(make_group(PANDA, 2, 1))
    intents = batch.intents.requires_grad_()
    gradients(policy, replace(batch, intents=intents))
    assert intents.grad is not None
    assert not intents.grad[:, SEEN:].any()
    assert intents.grad[:, :SEEN].any()


def test_the_target_of_the_future_gets_none_nor_do_the_intents_it_is_made_of() -> None:
    policy, batch = make_policy(), make_batch(make_group(PANDA, 2, 1))
    assert batch.future_intents is not None
    batch.future_intents.requires_grad_()
    found = gradients(policy, batch)
    assert not any(p.requires_grad for p in policy.target_bridge.parameters())
    assert not any(name.startswith("target_bridge") and grad is not None for name, grad in found.items())
    assert batch.future_intents.grad is None
    assert found["future_tokens"] is not None
    assert found["future_tokens"].any()


def test_without_the_future_loss_its_tokens_do_not_exist_and_nothing_of_the_future_is_read() -> None:
    policy = make_policy(replace(CONFIG, future_weight=0.0))
    assert not any("future" in name or "target" in name for name in policy.state_dict())
    batch = replace(make_batch(make_group(PANDA, 2, 1)), future_intents=None, future_mask=None)
    losses = policy(batch, draws_of(batch))
    assert losses.future_sum == losses.future_count == 0
    assert torch.equal(combine(losses, policy.config), losses.flow_sum / losses.flow_count)


@pytest.mark.parametrize(
    ("config", "learned"),
    [(replace(CONFIG, state_dropout=0.5), "no_state"), (replace(CONFIG, guidance_dropout=0.5), "no_intent")],
)
def test_what_is_hidden_teaches_the_token_that_stands_for_it(config: PolicyConfig, learned: str) -> None:
    policy, batch = make_policy(config), make_batch(make_group(PANDA, 12, 1))
    hidden = getattr(draws_of(batch, config), learned)
    assert 0 < hidden.sum() < 12
    found = gradients(policy.train(), batch)[learned]
    assert found is not None
    assert found.any()
    state, intents = batch.groups[0].state.requires_grad_(), batch.intents.requires_grad_()
    gradients(policy, batch)
    seen = state.grad.abs().sum(dim=1) if learned == "no_state" else intents.grad.abs().sum(dim=(1, 2))
    assert torch.equal(seen == 0, hidden)


@pytest.mark.parametrize("where", ["state", "actions", "intents", "future_intents"])
def test_a_row_with_nan_is_named(where: str) -> None:
    batch = make_batch(make_group(PANDA, 3, 1), make_group(XARM6, 2, 2), place=torch.tensor([9, 1, 2, 3, 7]))
    values = getattr(batch, where) if "intents" in where else getattr(batch.groups[1], where)
    values[-1].view(-1)[3] = torch.nan
    for policy in (make_policy().train(), make_policy(replace(CONFIG, state_dropout=0.999, guidance_dropout=0.999))):
        draws = draws_of(make_batch(make_group(PANDA, 10, 1)), policy.config)
        with pytest.raises(UserError, match=rf"row 7 of the batch \(xarm6\): .*{where.replace('_', ' ')}.* NaN"):
            policy(batch, draws)


def test_a_policy_that_diverged_is_not_blamed_on_its_batch() -> None:
    policy, batch = make_policy(), make_batch(make_group(PANDA, 2, 1))
    torch.nn.init.constant_(policy.bridge.project.weight, torch.nan)
    assert not torch.isfinite(policy(batch, draws_of(batch)).flow_sum)
