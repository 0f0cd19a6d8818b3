"""The language model's attention over packed documents against PyTorch's own."""

import json

import pytest
import torch
from torch.nn import functional as F

from blm.model import packed_attention
from blm.model.backbone import load_backbone, save_backbone
from blm.model.documents import Documents
from blm.model.packed_attention import MAX_PLAIN, use_packed_attention

LENGTHS = [1, 17, 3, 40, 17]
LONG = [MAX_PLAIN + 1, 30]


def inputs(lengths: list[int], dtype: torch.dtype, groups: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, sum(lengths), heads, 32) for heads in (6, groups, groups)]
    return [torch.randn(shape, generator=generator).to(dtype).transpose(1, 2).requires_grad_() for shape in shapes]


def attention(tensors: list[torch.Tensor], lengths: list[int] | None, **options) -> torch.Tensor:
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, tensors[0].shape[1] // tensors[1].shape[1]
    documents = Documents.of(lengths) if lengths else None
    out, _ = packed_attention.packed_attention(module, *tensors, None, scaling=32**-0.5, documents=documents, **options)
    return out.transpose(1, 2)


def reference(tensors: list[torch.Tensor], lengths: list[int]) -> torch.Tensor:
    parts = [x.split(lengths, dim=2) for x in tensors]
    return torch.cat(
        [
            F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            for q, k, v in zip(*parts, strict=True)
        ],
        dim=2,
    )


@pytest.mark.parametrize("lengths", [[1], [30], LENGTHS, LONG])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_values_and_gradients_are_those_of_causal_attention_within_documents(lengths, groups, dtype, tolerance):
    ours, theirs = inputs(lengths, dtype, groups), inputs(lengths, torch.float32, groups)
    theirs = [x.detach().to(dtype).float().requires_grad_() for x in theirs]
    out, expected = attention(ours, lengths), reference(theirs, lengths)
    assert out.dtype == dtype
    assert torch.allclose(out.float(), expected, atol=tolerance)
    weight = torch.linspace(-1, 1, 32)
    (out.float() * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.grad.float(), b.grad, atol=tolerance * max(1.0, float(b.grad.abs().max())))


def test_queries_and_keys_in_float32_follow_the_values_format():
    """As autocast makes them, whose rotary tables are float32."""
    q, k, v = inputs(LENGTHS, torch.float32)
    assert attention([q, k, v.to(torch.bfloat16)], LENGTHS).dtype == torch.bfloat16


def test_short_bfloat16_documents_do_not_take_the_fused_kernel(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("fused")

    monkeypatch.setattr(packed_attention.F, "scaled_dot_product_attention", refuse)
    attention(inputs(LENGTHS, torch.bfloat16), LENGTHS)
    for lengths, dtype in ((LENGTHS, torch.float32), (LONG, torch.bfloat16)):
        with pytest.raises(AssertionError, match="fused"):
            attention(inputs(lengths, dtype), lengths)


def test_the_gpu_kernel_is_called_with_what_it_takes():
    """Shapes, arguments and backward pass, on tensors without memory; that it runs takes a GPU."""
    q, k, v = (x.detach().to("meta").requires_grad_() for x in inputs(LENGTHS, torch.bfloat16))
    out = packed_attention._variable_length(q, k, v, Documents.of(LENGTHS).to("meta"), 32**-0.5)
    assert (out.shape, out.dtype) == ((1, sum(LENGTHS), 6, 32), torch.bfloat16)
    out.sum().backward()
    assert k.grad.shape == k.shape


def test_what_it_cannot_do_is_refused():
    tensors = inputs(LENGTHS, torch.float32)
    for options in ({"dropout": 0.1}, {"sliding_window": 39}):
        with pytest.raises(ValueError, match="no dropout, and no window"):
            attention(tensors, LENGTHS, **options)
    assert torch.equal(attention(tensors, LENGTHS, sliding_window=40), attention(tensors, LENGTHS))


def test_a_model_with_it_still_pads_and_generates_as_before(tiny_mllm):
    model, processor = load_backbone(tiny_mllm)
    ids = processor.tokenizer(["Where is the cube?", "Push"], padding=True, padding_side="left", return_tensors="pt")
    expected = model.generate(**ids, max_new_tokens=6, do_sample=False)
    with torch.no_grad():
        logits = model(**ids).logits
    use_packed_attention(model.model.language_model)
    assert torch.equal(model.generate(**ids, max_new_tokens=6, do_sample=False), expected)
    with torch.no_grad():
        assert torch.allclose(model(**ids).logits, logits, atol=1e-5)


def test_a_saved_model_does_not_know_of_it(tiny_mllm, tmp_path):
    model, processor = load_backbone(tiny_mllm)
    use_packed_attention(model.model.language_model)
    save_backbone(tmp_path / "saved", model, processor)
    assert packed_attention.NAME not in json.dumps(json.loads((tmp_path / "saved/config.json").read_text()))
    load_backbone(tmp_path / "saved")
