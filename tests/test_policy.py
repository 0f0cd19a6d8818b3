"""The policy: parity of batches, gradients where they belong, no leak of the future, and it learns."""

import pytest
import torch

from blm.model.embodiments import get_embodiment
from blm.model.errors import UserError
from blm.model.policy import Policy, PolicyBatch, PolicyConfig, PolicyGroup

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


def test_impossible_sizes_are_refused():
    with pytest.raises(UserError, match="not divisible"):
        PolicyConfig(width=30, heads=4)
    with pytest.raises(UserError, match="future_block 9"):
        PolicyConfig(future_block=9)
