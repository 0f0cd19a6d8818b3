"""The language model's CPU attention against PyTorch's own."""

import json

import pytest
import torch
from torch.nn import functional as F

from blm.model import short_attention
from blm.model.backbone import load_backbone, save_backbone
from blm.model.short_attention import MAX_TOKENS, use_short_attention


def inputs(length: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 6, length, 32), (2, 2, length, 32), (2, 2, length, 32))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def attention(tensors: list[torch.Tensor]) -> torch.Tensor:
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, 3
    out, _ = short_attention.short_attention(module, *tensors, None, scaling=32**-0.5)
    return out.transpose(1, 2)


@pytest.mark.parametrize("length", [1, 17, MAX_TOKENS + 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_values_and_gradients_are_those_of_causal_grouped_attention(length, dtype, tolerance):
    ours, theirs = inputs(length, dtype), inputs(length, torch.float32)
    out = attention(ours)
    q, k, v = theirs
    k, v = (x.repeat_interleave(3, dim=1) for x in (k, v))
    reference = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert out.dtype == dtype
    assert torch.allclose(out.float(), reference, atol=tolerance)
    weight = torch.linspace(-1, 1, 32)
    (out.float() * weight).sum().backward()
    (reference * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.grad.float(), b.grad, atol=tolerance * max(1.0, float(b.grad.abs().max())))


def test_short_bfloat16_sequences_do_not_take_the_fused_kernel(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("fused")

    monkeypatch.setattr(short_attention, "sdpa_attention_forward", refuse)
    attention(inputs(8, torch.bfloat16))
    with pytest.raises(AssertionError, match="fused"):
        attention(inputs(8, torch.float32))


def test_a_saved_model_does_not_know_of_it(tiny_mllm, tmp_path):
    model, processor = load_backbone(tiny_mllm)
    use_short_attention(model.model.language_model)
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=torch.tensor([[1, 2, 3]]))
    save_backbone(tmp_path / "saved", model, processor)
    assert short_attention.NAME not in json.dumps(json.loads((tmp_path / "saved/config.json").read_text()))
    load_backbone(tmp_path / "saved")
