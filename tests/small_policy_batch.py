"""Little policies, and batches of random rows for them."""

from collections.abc import Sequence

import torch

from blm.model.layout import Layout, layout_of
from blm.model.options import PolicyConfig
from blm.model.policy import Policy
from blm.model.policy_batch import PolicyBatch, PolicyDraws, PolicyGroup, make_draws

WIDTH, TOKENS, SEEN = 24, 10, 8
"""Width and number of intent tokens, and how many of them are real."""
CONFIG = PolicyConfig(width=32, blocks=4, heads=2, latents=3, head_hidden=32, future_block=2, state_dropout=0.0)
PUSHER = Layout(
    name="pusher",
    state_names=("x", "y"),
    action_names=("x", "y"),
    relative_to=(-1, -1),
    lower=(0.0, 0.0),
    upper=(512.0, 512.0),
    control_hz=10,
)
"""A body that nobody described to the project."""
PANDA, XARM6 = layout_of("panda"), layout_of("xarm6")


def make_policy(config: PolicyConfig = CONFIG, layouts: Sequence[Layout] = (PANDA, XARM6)) -> Policy:
    """The same weights every time."""
    torch.manual_seed(0)
    policy = Policy(config, layouts=layouts, intent_width=WIDTH, max_tokens=TOKENS)
    torch.nn.init.normal_(policy.dit.modulation.weight, std=0.2)  # at 0 they would hide everything behind them
    return policy


def make_group(layout: Layout, n: int, seed: int, padded: int = 0) -> PolicyGroup:
    """n rows of a robot; the last `padded` actions are padding."""
    generator = torch.Generator().manual_seed(seed)
    is_pad = torch.zeros(n, CONFIG.chunk, dtype=torch.bool)
    if padded:
        is_pad[:, -padded:] = True
    return PolicyGroup(
        embodiment=layout.name,
        state=torch.randn(n, layout.state_dim, generator=generator),
        actions=torch.randn(n, CONFIG.chunk, layout.action_dim, generator=generator),
        is_pad=is_pad,
    )


def make_batch(*groups: PolicyGroup, seed: int = 0, place: torch.Tensor | None = None) -> PolicyBatch:
    """Groups with random intents, whose last tokens are padding."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(len(group.state) for group in groups)
    mask = torch.ones(n, TOKENS, dtype=torch.bool)
    mask[:, SEEN:] = False
    present, future = (torch.randn(n, TOKENS, WIDTH, generator=generator) for _ in range(2))
    return PolicyBatch(
        groups=groups, intents=present, mask=mask, future_intents=future, future_mask=mask.clone(), place=place
    )


def draws_of(batch: PolicyBatch, config: PolicyConfig = CONFIG, *, step: int = 0, draws: int = 1) -> PolicyDraws:
    """The randomness of a step whose whole batch this is."""
    return make_draws(config, seed=0, step=step, batch=len(batch.intents), draws=draws, max_action_dim=8)


def rows_of(batch: PolicyBatch, rows: Sequence[int]) -> PolicyBatch:
    """Some rows of a batch, each with the place it has there."""
    index = torch.tensor(rows)
    groups, first = [], 0
    for group in batch.groups:
        local = index[(index >= first) & (index < first + len(group.state))] - first
        first += len(group.state)
        if len(local):
            groups.append(
                PolicyGroup(
                    embodiment=group.embodiment,
                    state=group.state[local],
                    actions=group.actions[local],
                    is_pad=group.is_pad[local],
                )
            )
    assert batch.future_intents is not None
    assert batch.future_mask is not None
    return PolicyBatch(
        groups=groups,
        intents=batch.intents[index],
        mask=batch.mask[index],
        future_intents=batch.future_intents[index],
        future_mask=batch.future_mask[index],
        place=batch.places[index],
    )


def sampled(policy: Policy, batch: PolicyBatch, embodiment: str, guidance: float = 1.0) -> torch.Tensor:
    """A deterministic read-out: chunks sampled from fixed noise for one robot's rows."""
    first = 0
    for group in batch.groups:
        rows = slice(first, first + len(group.state))
        first += len(group.state)
        if group.embodiment == embodiment:
            noise = torch.linspace(-1, 1, group.actions.numel()).view_as(group.actions)
            return policy.sample(embodiment, group.state, batch.intents[rows], batch.mask[rows], noise, 3, guidance)
    raise KeyError(embodiment)
