"""The policy: parity of batches, gradients where they belong, no leak of the future, and it learns."""

from dataclasses import replace

import pytest
import torch

from blm.model.embodiments import EMBODIMENTS, get_embodiment
from blm.model.errors import UserError
from blm.model.optim import ScheduledOptimizers, make_optimizers
from blm.model.options import PolicyConfig
from blm.model.policy import Policy, PolicyBatch, PolicyGroup
from blm.model.training import mixed_precision, step_generator

WIDTH, TOKENS = 24, 10
CONFIG = PolicyConfig(width=32, blocks=4, heads=2, latents=3, head_hidden=32, future_block=2, state_dropout=0.0)


def make_policy(config: PolicyConfig = CONFIG, embodiments=("panda", "xarm6")) -> Policy:
    torch.manual_seed(0)
    policy = Policy(config, embodiments=embodiments, intent_width=WIDTH, max_tokens=TOKENS)
    for block in policy.dit.blocks:  # fresh gates are zero, which would hide everything behind them
        torch.nn.init.normal_(block.modulation[1].weight, std=0.2)
    torch.nn.init.normal_(policy.dit.modulation_out[1].weight, std=0.2)
    return policy


def make_group(embodiment: str, n: int, seed: int, padded: int = 0) -> PolicyGroup:
    generator = torch.Generator().manual_seed(seed)
    body = get_embodiment(embodiment)
    is_pad = torch.zeros(n, CONFIG.chunk, dtype=torch.bool)
    if padded:
        is_pad[:, -padded:] = True
    return PolicyGroup(
        embodiment=embodiment,
        state=torch.randn(n, body.state_dim, generator=generator),
        actions=torch.randn(n, CONFIG.chunk, body.action_dim, generator=generator),
        is_pad=is_pad,
    )


def make_batch(*groups: PolicyGroup, seed: int = 0) -> PolicyBatch:
    generator = torch.Generator().manual_seed(seed)
    n = sum(len(group.state) for group in groups)
    mask = torch.ones(n, TOKENS, dtype=torch.bool)
    mask[:, 8:] = False
    present, future = (torch.randn(n, TOKENS, WIDTH, generator=generator) for _ in range(2))
    return PolicyBatch(groups=groups, intents=present, mask=mask, future_intents=future, future_mask=mask)


def velocities(policy: Policy, batch: PolicyBatch, embodiment: str) -> torch.Tensor:
    """A deterministic read-out: chunks sampled from fixed noise for one group's rows."""
    group = next(g for g in batch.groups if g.embodiment == embodiment)
    first = sum(len(g.state) for g in batch.groups[: list(batch.groups).index(group)])
    rows = slice(first, first + len(group.state))
    noise = torch.linspace(-1, 1, group.actions.numel()).view_as(group.actions)
    return policy.sample(embodiment, group.state, batch.intents[rows], batch.mask[rows], noise, 3)


def test_a_mixed_batch_gives_each_row_what_it_gets_alone():
    policy = make_policy().eval()
    batch = make_batch(make_group("panda", 2, 1), make_group("xarm6", 3, 2))
    for embodiment in ("panda", "xarm6"):
        together = velocities(policy, batch, embodiment)
        group = next(g for g in batch.groups if g.embodiment == embodiment)
        first = 0 if embodiment == "panda" else 2
        for i in range(len(group.state)):
            row = slice(first + i, first + i + 1)
            noise = torch.linspace(-1, 1, group.actions.numel()).view_as(group.actions)[i : i + 1]
            alone = policy.sample(embodiment, group.state[i : i + 1], batch.intents[row], batch.mask[row], noise, 3)
            assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


def test_padded_intent_tokens_are_never_seen():
    policy = make_policy().eval()
    batch = make_batch(make_group("panda", 2, 1))
    before = velocities(policy, batch, "panda")
    batch.intents[:, 8:] = 1e3
    assert torch.equal(velocities(policy, batch, "panda"), before)
    batch.intents[:, 0] = torch.randn(2, WIDTH)
    assert not torch.allclose(velocities(policy, batch, "panda"), before)


def test_padded_actions_carry_no_loss():
    policy = make_policy()
    group = make_group("panda", 3, 1, padded=5)
    losses = policy(make_batch(group), torch.Generator().manual_seed(0))
    group.actions[:, -5:] = 50.0  # noisy tokens change, so compare a policy that cannot see them
    kept = policy.robots["panda"].action_encoder
    for layer in kept:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.zeros_(layer.weight)
    clean = policy(make_batch(make_group("panda", 3, 1, padded=5)), torch.Generator().manual_seed(0))
    changed = policy(make_batch(group), torch.Generator().manual_seed(0))
    assert torch.equal(clean["flow"], changed["flow"])
    assert torch.isfinite(losses["flow"])


def test_a_robot_that_is_not_in_the_batch_gets_no_gradient():
    policy = make_policy()
    policy(make_batch(make_group("panda", 2, 1)), torch.Generator().manual_seed(0))["loss"].backward()
    assert all(p.grad is None for p in policy.robots["xarm6"].parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.robots["panda"].parameters())
    assert all(p.grad is None for p in policy.target_bridge.parameters())


def test_the_future_reaches_the_loss_but_never_the_actions():
    policy = make_policy().eval()
    batch = make_batch(make_group("panda", 2, 1))
    losses = policy(batch, torch.Generator().manual_seed(0))
    actions = velocities(policy, batch, "panda")
    batch.future_intents.add_(1.0).mul_(-2.0)
    changed = policy(batch, torch.Generator().manual_seed(0))
    assert torch.equal(changed["flow"], losses["flow"])
    assert not torch.equal(changed["future"], losses["future"])
    assert torch.equal(velocities(policy, batch, "panda"), actions)


def test_without_the_future_loss_its_tokens_do_not_exist():
    policy = make_policy(PolicyConfig(width=32, blocks=4, heads=2, latents=3, future_weight=0.0))
    assert not any("future" in name or "target" in name for name in policy.state_dict())
    losses = policy(make_batch(make_group("panda", 2, 1)), torch.Generator().manual_seed(0))
    assert torch.equal(losses["loss"], losses["flow"])


def test_a_lost_token_and_noise_are_drawn_in_training_alone():
    policy = make_policy(replace(CONFIG, intent_dropout=0.5, intent_noise=0.3))
    plain = make_policy(CONFIG)
    batch = make_batch(make_group("panda", 4, 1))

    def flow(model: Policy, seed: int = 0) -> torch.Tensor:
        return model(batch, torch.Generator().manual_seed(seed))["flow"]

    assert not torch.equal(flow(policy), flow(plain))
    assert torch.equal(flow(policy), flow(policy))
    assert torch.isfinite(flow(make_policy(replace(CONFIG, intent_dropout=0.999))))
    assert torch.equal(flow(policy.eval()), flow(plain.eval()))


def test_states_are_dropped_in_training_alone():
    policy = make_policy(replace(CONFIG, state_dropout=0.9))
    batch = make_batch(make_group("panda", 8, 1))
    training = policy.train()(batch, torch.Generator().manual_seed(0))["flow"]
    evaluating = policy.eval()(batch, torch.Generator().manual_seed(0))["flow"]
    never = make_policy(CONFIG)(batch, torch.Generator().manual_seed(0))["flow"]
    assert torch.equal(evaluating, never)
    assert not torch.equal(training, never)


def test_the_held_out_numbers_tell_a_collapsed_target():
    policy = make_policy().eval()
    batch = make_batch(make_group("panda", 6, 1))
    healthy = policy(batch, torch.Generator().manual_seed(0))
    assert healthy["target_std"] > 0.05
    assert healthy["copy"] > 0
    still = replace(batch, future_intents=batch.intents, future_mask=batch.mask)
    assert abs(policy(still, torch.Generator().manual_seed(0))["copy"]) < 1e-5
    for layer in policy.target_bridge.layers:
        torch.nn.init.zeros_(layer.cross.out.weight)
    assert policy(batch, torch.Generator().manual_seed(0))["target_std"] < 1e-3


def test_bfloat16_products_give_nearly_the_same_losses_and_float32_gradients():
    policy = make_policy()
    batch = make_batch(make_group("panda", 8, 1), make_group("xarm6", 8, 2))
    exact = policy(batch, torch.Generator().manual_seed(0))
    with mixed_precision(torch.device("cpu"), "bfloat16"):
        rough = policy(batch, torch.Generator().manual_seed(0))
    for key in ("flow", "future"):
        assert rough[key].dtype == torch.float32
        assert rough[key].item() == pytest.approx(exact[key].item(), rel=0.03)
    rough["loss"].backward()
    assert policy.bridge.project.weight.grad.dtype == torch.float32


def test_the_papers_size_builds_without_memory():
    with torch.device("meta"):
        config = PolicyConfig(
            width=768, blocks=16, heads=12, latents=32, bridge_layers=4, head_hidden=1024, future_block=12
        )
        policy = Policy(config, embodiments=tuple(EMBODIMENTS), intent_width=3584, max_tokens=200)
    millions = sum(p.numel() for p in policy.parameters() if p.requires_grad) / 1e6
    assert 150 < millions < 350
    assert all(p.is_meta for p in policy.parameters())
    body = get_embodiment("widowx_ai")
    assert policy.robots["widowx_ai"].action_decoder[-1].weight.shape[0] == body.action_dim


def test_several_draws_share_the_observation_and_average_its_loss():
    policy = make_policy().eval()
    group = make_group("panda", 2, 1)
    losses = policy(make_batch(group), torch.Generator().manual_seed(0), draws=64)
    again = policy(make_batch(group), torch.Generator().manual_seed(1), draws=64)
    assert abs(losses["flow"] - again["flow"]) < 0.25 * losses["flow"]


def test_the_target_follows_the_bridge():
    policy = make_policy()
    with torch.no_grad():
        for parameter in policy.bridge.parameters():
            parameter.add_(1.0)
    gap = (policy.bridge.latents - policy.target_bridge.latents).abs().max()
    policy.update_target()
    assert torch.allclose(
        (policy.bridge.latents - policy.target_bridge.latents).abs().max(), gap * CONFIG.ema_target, atol=1e-5
    )


def test_it_learns_chunks_that_the_picture_decides():
    """The chunk is a linear function of one intent token; sampled actions must follow it."""
    torch.manual_seed(1)
    config = PolicyConfig(width=48, blocks=4, heads=2, latents=3, head_hidden=48, future_block=2)
    policy = Policy(config, embodiments=("panda",), intent_width=WIDTH, max_tokens=TOKENS)
    readout = torch.randn(WIDTH, 8) / WIDTH**0.5
    optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(32, TOKENS, dtype=torch.bool)

    def sample_task(n: int):
        intents = torch.randn(n, TOKENS, WIDTH)
        actions = (intents[:, 3] @ readout).tanh()[:, None].expand(-1, config.chunk, -1)
        return intents, actions

    first, last = None, 0.0
    for _ in range(500):
        intents, actions = sample_task(32)
        group = PolicyGroup(
            embodiment="panda", state=torch.zeros(32, 8), actions=actions, is_pad=torch.zeros(32, 16, dtype=torch.bool)
        )
        batch = PolicyBatch(groups=[group], intents=intents, mask=mask, future_intents=intents, future_mask=mask)
        loss = policy(batch, generator)["flow"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = first or loss.item(), loss.item()
    assert last < first / 4
    intents, actions = sample_task(32)
    chunks = policy.eval().sample("panda", torch.zeros(32, 8), intents, mask, torch.randn(32, 16, 8), 8)
    assert (chunks - actions).abs().mean() < 0.4 * actions.abs().mean()


def test_it_memorises_a_few_chunks_and_samples_them_back():
    torch.manual_seed(1)
    config = PolicyConfig(width=48, blocks=4, heads=2, latents=3, head_hidden=48, future_block=2)
    policy = Policy(config, embodiments=("panda",), intent_width=WIDTH, max_tokens=TOKENS)
    rows, mask = 16, torch.ones(16, TOKENS, dtype=torch.bool)
    intents, state = torch.randn(rows, TOKENS, WIDTH), torch.zeros(rows, 8)
    growing = torch.linspace(0.2, 1, config.chunk)[:, None]
    actions = (intents[:, 3] @ torch.randn(WIDTH, 8) / WIDTH**0.5).tanh()[:, None] * growing
    is_pad = torch.zeros(rows, config.chunk, dtype=torch.bool)
    group = PolicyGroup(embodiment="panda", state=state, actions=actions, is_pad=is_pad)
    batch = PolicyBatch(groups=[group], intents=intents, mask=mask, future_intents=intents, future_mask=mask)
    steps = 300
    parts = make_optimizers(policy, learning_rate=3e-3, weight_decay=1e-4)
    optimizers = ScheduledOptimizers(parts, steps=steps, warmup=20, floor=0.05)
    losses = []
    for step in range(steps):
        flow = policy(batch, step_generator(0, step, 0))["flow"]
        optimizers.zero_grad()
        flow.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizers.step()
        losses.append(flow.item())
    assert sum(losses[-10:]) / 10 < losses[0] / 10
    noise = torch.randn(rows, config.chunk, 8, generator=torch.Generator().manual_seed(0))
    sampled = policy.eval().sample("panda", state, intents, mask, noise, 4)
    assert (sampled - actions).abs().mean() < 0.05 * (actions.max() - actions.min())


def test_impossible_sizes_are_refused():
    with pytest.raises(UserError, match="not divisible"):
        PolicyConfig(width=30, heads=4)
    with pytest.raises(UserError, match="future_block 9"):
        PolicyConfig(future_block=9)
    with pytest.raises(UserError, match=r"state_dropout is 1\.0"):
        PolicyConfig(state_dropout=1.0)
    with pytest.raises(UserError, match="intent_noise"):
        PolicyConfig(intent_noise=-0.1)
