"""The optimiser's groups and the learning-rate schedule."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from blm.model.backbone import load_backbone
from blm.model.errors import UserError
from blm.model.families import parts_of
from blm.model.grounding import GroundingHead
from blm.model.layout import layout_of
from blm.model.optim import MUON_RATE, ScheduledOptimizers, cosine_schedule, freeze, make_optimizers
from blm.model.options import PolicyConfig
from blm.model.policy import Policy
from blm.model.sft import SftModule


def groups_of(module: nn.Module) -> tuple[set[int], set[int]]:
    """Identities of the parameters with and without weight decay."""
    (optimizer,) = make_optimizers(module, learning_rate=1e-3, weight_decay=0.1)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] > 0 for p in g["params"]}
    return decayed, {id(p) for g in optimizer.param_groups if g["weight_decay"] == 0 for p in g["params"]}


def test_only_matrices_of_layers_are_decayed():
    policy = Policy(PolicyConfig(), layouts=[layout_of("panda")], intent_width=24, max_tokens=10)
    decayed, others = groups_of(policy)
    assert id(policy.bridge.project.weight) in decayed
    for spared in (
        policy.bridge.project.bias,
        policy.bridge.norm_out.weight,
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
    policy = Policy(PolicyConfig(), layouts=[layout_of("panda")], intent_width=24, max_tokens=10)
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


@pytest.fixture
def sft(tiny_mllm) -> SftModule:
    return SftModule(load_backbone(tiny_mllm)[0], GroundingHead(96))


def rates_of(parts: list[torch.optim.Optimizer]) -> dict[int, float]:
    return {id(p): group["lr"] for part in parts for group in part.param_groups for p in group["params"]}


def test_muon_takes_the_blocks_of_a_multimodal_model(sft):
    adamw, muon = make_optimizers(sft, learning_rate=1e-3, weight_decay=0.1, kind="muon")
    parts = parts_of(sft.mllm)
    blocks = [*parts.vision_blocks, *parts.language_blocks]
    matrices = {id(m.weight) for block in blocks for m in block.modules() if isinstance(m, nn.Linear)}
    assert set(rates_of([muon])) == matrices
    assert set(rates_of([adamw, muon])) == {id(p) for p in sft.parameters()}
    assert [group["lr"] * group["weight_decay"] for group in muon.param_groups] == [pytest.approx(1e-4)]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_part_has_its_own_rate(sft, kind):
    rates = {"vision": 0.1, "merger": 0.5, "language": 1.0, "head": 2.0}
    found = rates_of(make_optimizers(sft, learning_rate=1e-3, weight_decay=0.1, kind=kind, rates=rates))
    visual = sft.mllm.model.visual
    for module, rate in (
        (visual.blocks[0].attn.qkv, 0.1),
        (visual.merger.mlp[0], 0.5),
        (sft.mllm.model.language_model.layers[0].mlp.up_proj, 1.0),
        (sft.mllm.get_input_embeddings(), 1.0),
        (sft.head.out, 2.0),
    ):
        muon = kind == "muon" and rate in (0.1, 1.0) and isinstance(module, nn.Linear)
        assert found[id(module.weight)] == pytest.approx(1e-3 * rate * (MUON_RATE if muon else 1))


def test_a_rate_of_zero_freezes_the_part(sft):
    freeze(sft, {"vision": 0.0, "language": 1.0})
    visual = sft.mllm.model.visual
    merger = {id(p) for p in visual.merger.parameters()}
    frozen = {id(p) for p in visual.parameters()} - merger
    assert {id(p) for p in sft.parameters() if not p.requires_grad} == frozen
    found = rates_of(make_optimizers(sft, learning_rate=1e-3, weight_decay=0.1, rates={"merger": 0.0}))
    assert set(found) == {id(p) for p in sft.parameters()} - frozen - merger
    nothing = {"vision": 0.0, "merger": 0.0, "language": 0.0, "head": 0.0}
    with pytest.raises(UserError, match="nothing is left to train"):
        make_optimizers(sft, learning_rate=1e-3, weight_decay=0.1, rates=nothing)


def scheduled(rates: dict[str, float], sft: SftModule) -> ScheduledOptimizers:
    parts = make_optimizers(sft, learning_rate=1e-3, weight_decay=0.1, kind="muon", rates=rates)
    return ScheduledOptimizers(parts, steps=20, warmup=4, floor=0.05)


def test_schedules_seek_and_skip_to_where_steps_lead(sft):
    rates = {"vision": 0.1, "language": 1.0}
    stepped, sought, skipped = (scheduled(rates, sft) for _ in range(3))
    before = [p.clone() for p in sft.parameters()]
    for step in range(1, 9):
        stepped.step()  # without gradients nothing is updated
        for p in sft.parameters():
            p.grad = torch.full_like(p, torch.nan)
        skipped.skip()
        sought.seek(step)
        for other in (sought, skipped):
            assert [rates_of(other.parts)] == [rates_of(stepped.parts)]
    assert all(p.grad is None for p in sft.parameters())
    assert all(torch.equal(p, was) for p, was in zip(sft.parameters(), before, strict=True))
    for p in sft.parameters():
        p.grad = torch.ones_like(p)
    for some in (stepped, sought, skipped):
        some.step()
        assert [rates_of(some.parts)] == [rates_of(stepped.parts)]


@pytest.mark.slow
def test_eight_bit_moments_learn_like_whole_ones():
    pytest.importorskip("torchao")

    def trained(kind: str) -> tuple[torch.Tensor, int]:
        torch.manual_seed(0)
        layer = nn.Linear(128, 64)
        (optimizer,) = make_optimizers(layer, learning_rate=1e-2, weight_decay=0.0, kind=kind)
        for _ in range(20):
            optimizer.zero_grad()
            (layer(torch.ones(128)) - 1).square().sum().backward()
            optimizer.step()
        moments = optimizer.state[layer.weight]["exp_avg"]
        size = (
            sum(getattr(moments, name).nbytes for name in moments.tensor_attrs)
            if kind == "adamw8bit"
            else moments.nbytes
        )
        return layer.weight.detach(), size

    (whole, bytes_whole), (eight, bytes_eight) = trained("adamw"), trained("adamw8bit")
    assert torch.allclose(whole, eight, atol=0.01)
    assert bytes_eight < 0.3 * bytes_whole
