"""One step of Stage II: flat memory changes nothing, and neither does the number of workers."""

import copy
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from small_workers import on_workers

from blm.model.layout import layout_of
from blm.model.optim import make_optimizers
from blm.model.options import PolicyConfig
from blm.model.policy import Policy
from blm.model.policy_batch import PolicyBatch, PolicyGroup, make_draws
from blm.model.policy_losses import combine
from blm.pipelines.policy_training import checkpoints
from blm.pipelines.policy_training.step import compile_blocks, take_step
from blm.pipelines.policy_training.weights import Weights

CONFIG = PolicyConfig(width=32, blocks=4, heads=2, latents=3, head_hidden=32, future_block=2, state_noise=0.05)
ROBOTS = ("panda", "xarm6")
ROWS, TOKENS, WIDTH, DRAWS = 8, 5, 16, 2
OPTIONS = {"learning_rate": 3e-3, "weight_decay": 0.01, "steps": 20, "warmup": 2}


@pytest.fixture
def process_group(tmp_path: Path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def fresh_policy() -> Policy:
    torch.manual_seed(0)
    return Policy(CONFIG, layouts=[layout_of(name) for name in ROBOTS], intent_width=WIDTH, max_tokens=TOKENS)


def batch_of(step: int, places: list[int], only: str = "") -> PolicyBatch:
    """The rows at these places of a step's batch of ROWS; even places are a panda's, odd ones an xarm6's. only: all are
    this robot's."""
    rows: dict[str, list[int]] = {}
    for place in places:
        rows.setdefault(only or ROBOTS[place % 2], []).append(place)
    groups, order = [], []
    for name in sorted(rows):
        layout, made = layout_of(name), []
        for place in rows[name]:
            generator = torch.Generator().manual_seed(1000 * step + place)
            made.append(
                (
                    torch.randn(layout.state_dim, generator=generator),
                    torch.randn(CONFIG.chunk, layout.action_dim, generator=generator),
                    torch.arange(CONFIG.chunk) > 4 + place,
                )
            )
        state, actions, is_pad = (torch.stack(part) for part in zip(*made, strict=True))
        groups.append(PolicyGroup(embodiment=name, state=state, actions=actions, is_pad=is_pad))
        order += rows[name]
    seen = torch.stack(
        [torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(7000 * step + p)) for p in order]
    )
    mask = torch.ones(len(order), TOKENS, dtype=torch.bool)
    return PolicyBatch(
        groups=groups,
        intents=seen[:, 0],
        mask=mask,
        future_intents=seen[:, 1],
        future_mask=mask,
        place=torch.tensor(order),
    )


def draws_of(step: int):
    return make_draws(CONFIG, seed=0, step=step, batch=ROWS, draws=DRAWS, max_action_dim=8)


def train(weights: Weights, policy: Policy, steps: range, rank: int = 0, world: int = 1, only: str = "") -> list:
    """The steps' sums over all workers."""
    found = []
    for step in steps:
        batch = batch_of(step, list(range(ROWS))[rank::world], only)
        sums = take_step(weights, policy, batch, draws_of(step), nullcontext(), clip_norm=0.5)
        weights.update_average(step, 0.9)
        dist.all_reduce(sums)
        found.append(sums)
    return found


def learned(only: str) -> dict:
    """Sums of every step, and the averaged weights, of this worker's part of a training."""
    policy = fresh_policy()
    weights = Weights(policy, **OPTIONS)
    sums = train(weights, policy, range(6), dist.get_rank(), dist.get_world_size(), only)
    return {"sums": torch.stack(sums), "average": weights.average_state()}


def save_learned(folder: str) -> None:
    """As a worker: train on both robots and on one alone; the first one writes what came out."""
    for only in ("", "panda"):
        found = learned(only)
        if dist.get_rank() == 0:
            torch.save(found, Path(folder) / f"two-{only}.pt")


def test_two_workers_with_half_the_rows_learn_what_one_learns(process_group, tmp_path):
    on_workers(save_learned, 2, str(tmp_path))
    fresh = fresh_policy().state_dict()
    for only in ("", "panda"):  # of a robot without rows there are gradients of zero
        one, two = learned(only), torch.load(tmp_path / f"two-{only}.pt", weights_only=True)
        torch.testing.assert_close(two["sums"], one["sums"], rtol=1e-5, atol=1e-5)
        for name, tensor in one["average"].items():
            torch.testing.assert_close(two["average"][name], tensor, rtol=0, atol=2e-4, msg=name)
        moved = [name for name, tensor in one["average"].items() if not torch.equal(tensor, fresh[name])]
        assert len(moved) > 0.6 * len(fresh)


def test_flat_memory_learns_what_separate_tensors_learn(process_group):
    policy, plain = fresh_policy(), fresh_policy()
    weights = Weights(policy, **OPTIONS)
    reference = make_optimizers(plain, learning_rate=OPTIONS["learning_rate"], weight_decay=0.01)
    average = copy.deepcopy(plain.state_dict())
    for step in range(4):
        train(weights, policy, range(step, step + 1))
        for part in reference:
            for group in part.param_groups:  # the schedule, written out
                group["lr"] = OPTIONS["learning_rate"] * min((step + 1) / 2, 1.0) * cosine(step)
        plain.zero_grad()
        combine(plain(batch_of(step, list(range(ROWS))), draws_of(step)), CONFIG).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        for part in reference:
            part.step()
        plain.update_target()
        rate = 1 - min(0.9, (1 + step) / (10 + step))
        for name, tensor in plain.state_dict().items():
            average[name].lerp_(tensor, rate)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(policy.state_dict()[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
        torch.testing.assert_close(weights.average_state()[name], average[name], rtol=1e-4, atol=1e-6, msg=name)


def cosine(step: int) -> float:
    import math

    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / OPTIONS["steps"]))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_checkpoint_goes_on_to_the_bit(process_group, tmp_path, kind):
    def fresh() -> tuple[Weights, Policy]:
        policy = fresh_policy()
        return Weights(policy, kind=kind, muon=(policy.bridge.layers, policy.dit.blocks), **OPTIONS), policy

    weights, policy = fresh()
    train(weights, policy, range(3))
    saver = checkpoints.Saver(tmp_path)
    saver.save(weights, {"step": 3, "curve": [1.5]})
    undisturbed = train(weights, policy, range(3, 6))  # while it is written
    saver.wait()

    again, second = fresh()
    assert checkpoints.load(tmp_path, again) == {"step": 3, "curve": [1.5]}
    resumed = train(again, second, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(undisturbed, resumed, strict=True))
    for name, tensor in weights.average_state().items():
        assert torch.equal(again.average_state()[name], tensor), name


def test_the_average_is_swapped_in_and_out(process_group):
    policy = fresh_policy()
    weights = Weights(policy, **OPTIONS)
    train(weights, policy, range(3))
    now, average = (
        {name: tensor.clone() for name, tensor in state.items()}
        for state in (policy.state_dict(), weights.average_state())
    )
    assert any(not torch.equal(now[name], average[name]) for name in now)
    weights.swap_average()
    assert all(torch.equal(policy.state_dict()[name], tensor) for name, tensor in average.items())
    weights.swap_average()
    assert all(torch.equal(policy.state_dict()[name], tensor) for name, tensor in now.items())


def test_compiled_blocks_compute_the_same(process_group):
    plain, compiled = fresh_policy(), fresh_policy()
    compile_blocks(compiled, backend="eager")
    batch = batch_of(0, list(range(ROWS)))
    losses = [combine(policy(batch, draws_of(0)), CONFIG) for policy in (plain, compiled)]
    torch.testing.assert_close(losses[0], losses[1])
    assert list(plain.state_dict()) == list(compiled.state_dict())
