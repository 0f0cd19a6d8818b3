"""Seeds of a step, number format, and the weight average."""

import pytest
import torch
from torch import nn

from blm.model.training import ema_update, fast_bfloat16, mixed_precision, resolve_precision, step_generator

CPU = torch.device("cpu")


def test_a_steps_randomness_follows_from_seed_step_and_rank_alone():
    def draw(*key: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = step_generator(*key)
        return torch.rand(3, generator=generator), torch.rand(3)  # ours, and the global one that dropout uses

    first, again = draw(1, 2, 0), draw(1, 2, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for key in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        other = draw(*key)
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_float32_is_exact_and_bfloat16_keeps_float32_weights():
    layer, x = nn.Linear(64, 64), torch.randn(8, 64)
    with mixed_precision(CPU, "float32"):
        exact = layer(x)
    with mixed_precision(CPU, "bfloat16"):
        rough = layer(x)
    assert torch.equal(exact, layer(x))
    assert rough.dtype == torch.bfloat16
    assert torch.allclose(rough.float(), exact, atol=0.05)
    rough.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_auto_follows_the_resources_and_takes_bfloat16_where_a_cpu_is_fast_with_it():
    fast = "bfloat16" if fast_bfloat16(CPU) else "float32"
    assert resolve_precision("auto", "float32", CPU) == fast
    assert resolve_precision("auto", "bfloat16", CPU) == "bfloat16"
    assert resolve_precision("auto", "float32", torch.device("cuda")) == "float32"
    assert resolve_precision("auto", "bfloat16", torch.device("cuda")) == "bfloat16"
    assert resolve_precision("float32", "bfloat16", CPU) == "float32"


def test_mixed_precision_can_be_entered_at_every_step():
    layer = nn.Linear(8, 8)
    context = mixed_precision(CPU, "bfloat16")
    for _ in range(2):
        with context:
            assert layer(torch.randn(2, 8)).dtype == torch.bfloat16
    assert layer(torch.randn(2, 8)).dtype == torch.float32


def test_averaged_weights_follow_fast_at_first_and_slowly_later():
    average, current = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    ema_update(average, current, step=0, decay=0.999)
    assert average["w"].item() == pytest.approx(0.9)
    average["w"].zero_()
    ema_update(average, current, step=1_000_000, decay=0.999)
    assert average["w"].item() == pytest.approx(0.001, rel=1e-3)
