"""The Perceiver, and the attention below it and the transformer."""

import pytest
import torch
from torch.nn import functional as F

from blm.model.attention import Attention, attend
from blm.model.bridge import IntentBridge
from blm.model.dit import Dit

WIDTH, TOKENS = 24, 10


@pytest.fixture
def bridge() -> IntentBridge:
    torch.manual_seed(0)
    return IntentBridge(intent_width=WIDTH, max_tokens=TOKENS, width=32, latents=5, layers=2, heads=4)


def mask_of(*lengths: int) -> torch.Tensor:
    return torch.arange(TOKENS)[None] < torch.tensor(lengths)[:, None]


def test_attention_on_cpu_equals_the_fused_one():
    q, k, v = torch.randn(2, 4, 7, 8), torch.randn(2, 4, TOKENS, 8), torch.randn(2, 4, TOKENS, 8)
    mask = mask_of(10, 4)[:, None, None, :]
    assert torch.allclose(attend(q, k, v, None), F.scaled_dot_product_attention(q, k, v), atol=1e-6)
    assert torch.allclose(attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask), atol=1e-6)


def test_keys_and_values_can_be_kept():
    attention, x, context = Attention(32, 4, WIDTH), torch.randn(2, 3, 32), torch.randn(2, TOKENS, WIDTH)
    kept = attention.key_value(context)
    assert torch.equal(attention(x, kept), attention(x, attention.key_value(context)))


def test_any_number_of_tokens_becomes_the_same_number_of_normalised_latents(bridge):
    for tokens in (3, TOKENS):
        out = bridge(torch.randn(2, tokens, WIDTH), torch.ones(2, tokens, dtype=torch.bool))
        assert out.shape == (2, 5, 32)
        assert torch.allclose(out.mean(-1), torch.zeros(2, 5), atol=1e-5)
        assert torch.allclose(out.std(-1, correction=0), torch.ones(2, 5), atol=1e-2)


def test_padding_is_never_attended_to_and_gets_no_gradient(bridge):
    states = torch.randn(2, TOKENS, WIDTH, requires_grad=True)
    mask = mask_of(10, 6)
    out = bridge(states, mask)
    garbage = torch.where(mask[..., None], states, 1e3)
    assert torch.equal(bridge(garbage, mask), out)
    out.square().sum().backward()
    assert not states.grad[1, 6:].any()
    assert states.grad[1, :6].any()


def test_where_a_token_stands_matters(bridge):
    states, mask = torch.randn(1, TOKENS, WIDTH), mask_of(10)
    assert not torch.allclose(bridge(states.flip(1), mask), bridge(states, mask), atol=1e-3)


def test_the_scale_of_hidden_states_does_not_matter(bridge):
    states, mask = torch.randn(1, TOKENS, WIDTH), mask_of(10)
    assert torch.allclose(bridge(states * 300, mask), bridge(states, mask), atol=1e-4)


def test_a_fresh_transformer_is_the_identity_up_to_its_last_norm():
    dit = Dit(width=32, blocks=4, heads=4, dropout=0.0)
    x = torch.randn(3, 7, 32)
    out, tapped = dit(x, torch.rand(3), dit.intent_key_values(torch.randn(3, 5, 32)), 2)
    assert torch.equal(tapped, x)
    assert torch.allclose(out, F.layer_norm(x, (32,)), atol=1e-6)
