"""The policy: what its losses mean, what it draws in training, its sizes, and it learns."""

from dataclasses import replace

import pytest
import torch
from small_policy_batch import (
    CONFIG,
    PANDA,
    PUSHER,
    TOKENS,
    WIDTH,
    XARM6,
    draws_of,
    make_batch,
    make_group,
    make_policy,
)

from blm.model.embodiments import EMBODIMENTS
from blm.model.errors import UserError
from blm.model.layout import layout_of
from blm.model.optim import ScheduledOptimizers, make_optimizers
from blm.model.options import PolicyConfig
from blm.model.policy import Policy
from blm.model.policy_batch import PolicyBatch, PolicyGroup, make_draws
from blm.model.policy_losses import combine, means
from blm.model.training import mixed_precision


def flow(policy: Policy, batch: PolicyBatch, step: int = 0) -> torch.Tensor:
    """The flow loss of a batch."""
    return means(policy(batch, draws_of(batch, policy.config, step=step)))["flow"]


def test_the_loss_is_the_mean_flow_loss_and_the_weighted_mean_distance_to_the_future() -> None:
    policy, batch = make_policy(), make_batch(make_group(PANDA, 3, 1, padded=4), make_group(XARM6, 2, 2))
    losses = policy(batch, draws_of(batch, draws=2))
    assert losses.flow_count == 2 * (3 * 12 * 8 + 2 * 16 * 7)
    assert losses.future_count == 2 * 5
    expected = losses.flow_sum / losses.flow_count + CONFIG.future_weight * losses.future_sum / losses.future_count
    assert torch.equal(combine(losses, CONFIG), expected)
    assert losses.copy_sum is None


def test_what_makes_inputs_noisy_is_drawn_in_training_alone() -> None:
    plain, batch = make_policy(), make_batch(make_group(PANDA, 4, 1))
    for option in ("intent_dropout", "intent_noise", "state_noise", "state_dropout", "guidance_dropout"):
        policy = make_policy(replace(CONFIG, **{option: 0.8}))
        policy.load_state_dict(plain.state_dict(), strict=False)
        assert not torch.equal(flow(policy, batch), flow(plain, batch)), option
        assert torch.equal(flow(policy, batch), flow(policy, batch)), option
        assert torch.equal(flow(policy.eval(), batch), flow(plain.eval(), batch)), option
        plain.train()


def test_noise_on_the_inputs_leaves_the_batch_itself_as_it_was() -> None:
    policy, batch = (
        make_policy(replace(CONFIG, intent_noise=0.5, state_noise=0.5, intent_dropout=0.999)),
        make_batch(make_group(PANDA, 4, 1)),
    )
    before = (batch.intents.clone(), batch.groups[0].state.clone(), batch.mask.clone())
    assert torch.isfinite(flow(policy, batch))
    after = (batch.intents, batch.groups[0].state, batch.mask)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_the_held_out_numbers_tell_a_collapsed_target() -> None:
    policy, batch = make_policy().eval(), make_batch(make_group(PANDA, 6, 1))
    healthy = means(policy(batch, draws_of(batch)))
    assert healthy["target_std"] > 0.05
    assert healthy["copy"] > 0
    still = replace(batch, future_intents=batch.intents, future_mask=batch.mask)
    assert abs(means(policy(still, draws_of(batch)))["copy"]) < 1e-5
    for layer in policy.target_bridge.layers:
        torch.nn.init.zeros_(layer.cross.out.weight)
    assert means(policy(batch, draws_of(batch)))["target_std"] < 1e-3


def test_bfloat16_products_give_nearly_the_same_losses_and_float32_gradients() -> None:
    policy, batch = make_policy(), make_batch(make_group(PANDA, 8, 1), make_group(XARM6, 8, 2))
    exact = policy(batch, draws_of(batch))
    with mixed_precision(torch.device("cpu"), "bfloat16"):
        rough = policy(batch, draws_of(batch))
    for key, value in means(exact).items():
        assert means(rough)[key].dtype == torch.float32
        assert means(rough)[key].item() == pytest.approx(value.item(), rel=0.03)
    combine(rough, CONFIG).backward()
    assert policy.bridge.project.weight.grad.dtype == torch.float32


def test_several_draws_share_the_observation_and_average_its_loss() -> None:
    policy, batch = make_policy().eval(), make_batch(make_group(PANDA, 2, 1))
    one, other = (means(policy(batch, draws_of(batch, step=step, draws=64)))["flow"] for step in (0, 1))
    assert abs(one - other) < 0.25 * one


def test_the_papers_size_builds_without_memory() -> None:
    with torch.device("meta"):
        config = PolicyConfig(
            width=768, blocks=16, heads=12, latents=32, bridge_layers=4, head_hidden=1024, future_block=12
        )
        layouts = [*map(layout_of, EMBODIMENTS), PUSHER]
        policy = Policy(config, layouts=layouts, intent_width=3584, max_tokens=200)
    millions = sum(p.numel() for p in policy.parameters() if p.requires_grad) / 1e6
    assert 150 < millions < 350
    assert all(p.is_meta for p in policy.parameters())


def test_the_target_follows_the_bridge() -> None:
    policy = make_policy()
    with torch.no_grad():
        for parameter in policy.bridge.parameters():
            parameter.add_(1.0)
    gap = (policy.bridge.latents - policy.target_bridge.latents).abs().max()
    policy.update_target()
    assert torch.allclose(
        (policy.bridge.latents - policy.target_bridge.latents).abs().max(), gap * CONFIG.ema_target, atol=1e-5
    )


def test_it_memorises_a_few_chunks_and_samples_them_back() -> None:
    """The chunk of a row follows from one of its intent tokens; nothing else tells the rows apart."""
    torch.manual_seed(1)
    config = PolicyConfig(
        width=48, blocks=2, heads=2, latents=3, bridge_layers=1, head_hidden=48, future_block=2, future_weight=0.0
    )
    policy = Policy(config, layouts=[PANDA], intent_width=WIDTH, max_tokens=TOKENS)
    rows, mask = 8, torch.ones(8, TOKENS, dtype=torch.bool)
    intents, state = torch.randn(rows, TOKENS, WIDTH), torch.zeros(rows, 8)
    growing = torch.linspace(0.2, 1, config.chunk)[:, None]
    actions = (intents[:, 3] @ torch.randn(WIDTH, 8) / WIDTH**0.5).tanh()[:, None] * growing
    is_pad = torch.zeros(rows, config.chunk, dtype=torch.bool)
    group = PolicyGroup(embodiment="panda", state=state, actions=actions, is_pad=is_pad)
    batch = PolicyBatch(groups=[group], intents=intents, mask=mask)
    steps = 260
    parts = make_optimizers(policy, learning_rate=3e-3, weight_decay=1e-4)
    optimizers = ScheduledOptimizers(parts, steps=steps, warmup=20, floor=0.05)
    losses = []
    for step in range(steps):
        draws = make_draws(config, seed=0, step=step, batch=rows, draws=1, max_action_dim=8)
        loss = means(policy(batch, draws))["flow"]
        optimizers.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizers.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < losses[0] / 10
    noise = torch.randn(rows, config.chunk, 8, generator=torch.Generator().manual_seed(0))
    sampled = policy.eval().sample("panda", state, intents, mask, noise, 4)
    assert (sampled - actions).abs().mean() < 0.05 * (actions.max() - actions.min())


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_timetable_made_once_gives_the_same_bits_for_every_batch(guidance: float) -> None:
    policy = make_policy(replace(CONFIG, guidance_dropout=0.1)).eval()
    torch.nn.init.normal_(policy.dit.modulation.weight, std=0.2)
    timetable = policy.timetable(3)
    for rows in (1, 4):
        batch = make_batch(make_group(PANDA, rows, rows))
        noise = torch.randn(rows, CONFIG.chunk, 8)
        given = ("panda", batch.groups[0].state, batch.intents, batch.mask, noise, 3, guidance)
        assert torch.equal(policy.sample(*given, timetable=timetable), policy.sample(*given))


def test_robots_it_cannot_tell_apart_and_robots_it_does_not_know_are_refused() -> None:
    with pytest.raises(UserError, match="two have the same name"):
        make_policy(CONFIG, (PANDA, replace(PUSHER, name="panda")))
    batch = make_batch(make_group(PUSHER, 2, 1))
    with pytest.raises(UserError, match="not built for 'pusher'; it knows panda, xarm6"):
        make_policy()(batch, draws_of(batch))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="not divisible"):
        PolicyConfig(width=30, heads=4)
    with pytest.raises(UserError, match="future_block 9"):
        PolicyConfig(future_block=9)
    with pytest.raises(UserError, match=r"state_dropout is 1\.0"):
        PolicyConfig(state_dropout=1.0)
    with pytest.raises(UserError, match=r"guidance_dropout is -0\.5"):
        PolicyConfig(guidance_dropout=-0.5)
    with pytest.raises(UserError, match="intent_noise"):
        PolicyConfig(intent_noise=-0.1)
