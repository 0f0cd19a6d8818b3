"""The optimiser's groups and the learning-rate schedule."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from blm.model.optim import MUON_RATE, ScheduledOptimizers, cosine_schedule, make_optimizers
from blm.model.options import PolicyConfig
from blm.model.policy import Policy


def groups_of(module: nn.Module) -> tuple[set[int], set[int]]:
    """Identities of the parameters with and without weight decay."""
    (optimizer,) = make_optimizers(module, learning_rate=1e-3, weight_decay=0.1)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] > 0 for p in g["params"]}
    return decayed, {id(p) for g in optimizer.param_groups if g["weight_decay"] == 0 for p in g["params"]}


def test_only_matrices_of_layers_are_decayed():
    policy = Policy(PolicyConfig(), embodiments=("panda",), intent_width=24, max_tokens=10)
    decayed, others = groups_of(policy)
    assert id(policy.bridge.project.weight) in decayed
    for spared in (
        policy.bridge.project.bias,
        policy.bridge.norm_in.weight,
        policy.bridge.position,
        policy.bridge.latents,
        policy.action_position,
        policy.future_tokens,
    ):
        assert id(spared) in others
    trainable = {id(p) for p in policy.parameters() if p.requires_grad}
    assert decayed | others == trainable
    assert not decayed & others


def test_an_output_layer_tied_to_the_embedding_is_not_decayed():
    module = nn.ModuleDict({"embed": nn.Embedding(4, 3), "out": nn.Linear(3, 4, bias=False)})
    module["out"].weight = module["embed"].weight
    decayed, others = groups_of(module)
    assert not decayed
    assert others == {id(module["embed"].weight)}


def test_frozen_parameters_are_left_out():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    decayed, others = groups_of(module)
    assert decayed | others == {id(p) for p in module[1].parameters()}


def test_the_rate_rises_over_the_warm_up_and_falls_to_the_floor():
    (optimizer,) = make_optimizers(nn.Linear(2, 2), learning_rate=1.0, weight_decay=0.0)
    schedule = cosine_schedule(optimizer, steps=100, warmup=10, floor=0.05)
    rates = []
    for _ in range(101):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) == pytest.approx(max(rates[8:12]))
    assert all(later <= earlier for earlier, later in pairwise(rates[12:]))
    assert rates[100] == pytest.approx(0.05)


def test_muon_takes_the_matrices_of_the_modules_named_and_adamw_the_rest():
    policy = Policy(PolicyConfig(), embodiments=("panda",), intent_width=24, max_tokens=10)
    adamw, muon = make_optimizers(policy, learning_rate=1e-3, weight_decay=0.1, muon=[policy.dit])
    orthogonal = {id(p) for p in muon.param_groups[0]["params"]}
    assert orthogonal == {id(m.weight) for m in policy.dit.modules() if isinstance(m, nn.Linear)}
    rest = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert rest | orthogonal == {id(p) for p in policy.parameters() if p.requires_grad}
    assert not rest & orthogonal
    assert muon.param_groups[0]["lr"] == pytest.approx(MUON_RATE * 1e-3)


def test_muon_leaves_an_embedding_that_is_tied_to_the_output_alone():
    module = nn.ModuleDict({"embed": nn.Embedding(4, 3), "out": nn.Linear(3, 4, bias=False)})
    module["out"].weight = module["embed"].weight
    assert len(make_optimizers(module, learning_rate=1e-3, weight_decay=0.1, muon=[module])) == 1


@pytest.mark.parametrize("muon", [False, True])
def test_loaded_optimisers_go_on_bitwise(muon):
    def run(first: int, last: int, optimizers: ScheduledOptimizers, layer: nn.Linear) -> None:
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            optimizers.zero_grad()
            layer(torch.randn(5, 3, generator=generator)).square().sum().backward()
            optimizers.step()

    def fresh() -> tuple[nn.Linear, ScheduledOptimizers]:
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        parts = make_optimizers(layer, learning_rate=1e-2, weight_decay=0.1, muon=[layer] if muon else [])
        return layer, ScheduledOptimizers(parts, steps=10, warmup=2, floor=0.05)

    whole, optimizers = fresh()
    run(0, 10, optimizers, whole)
    half, first_half = fresh()
    run(0, 5, first_half, half)
    other, second_half = fresh()
    other.load_state_dict(half.state_dict())
    for mine, saved in zip(second_half.parts, first_half.parts, strict=True):
        mine.load_state_dict(saved.state_dict())
    second_half.load_schedule_state(first_half.schedule_state())
    run(5, 10, second_half, other)
    assert not torch.equal(half.weight, whole.weight)
    assert torch.equal(other.weight, whole.weight)
