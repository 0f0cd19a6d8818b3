"""The Perceiver, and the attention below it and the transformer."""

import pytest
import torch
from torch.nn import functional as F

from blm.model.attention import CrossAttention, SelfAttention, attend, split_heads
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
    k, v = torch.randn(2, 4, 20, 8), torch.randn(2, 4, 20, 8)  # so many are summed in another order
    assert torch.allclose(attend(q, k, v, None), F.scaled_dot_product_attention(q, k, v), atol=1e-6)


def test_attention_within_a_sequence_may_be_asked_for_its_end_alone():
    attention, x = SelfAttention(32, 4), torch.randn(2, 9, 32)
    assert torch.allclose(attention(x, 3), attention(x)[:, -3:], atol=1e-6)


def test_both_attentions_agree_where_queries_and_context_are_the_same():
    own, cross, x = SelfAttention(32, 4), CrossAttention(32, 4), torch.randn(2, 7, 32)
    with torch.no_grad():
        cross.to_q.weight.copy_(own.to_qkv.weight[:32])
        cross.to_q.bias.copy_(own.to_qkv.bias[:32])
        cross.out.load_state_dict(own.out.state_dict())
    kept = split_heads(F.linear(x, own.to_qkv.weight[32:], own.to_qkv.bias[32:]), 2, 4)
    assert torch.allclose(cross(x, kept), own(x), atol=1e-6)


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
    out, tapped = dit(x, dit.modulations(torch.rand(3)), dit.intent_key_values(torch.randn(3, 5, 32)), last=4, tap=2)
    assert torch.equal(tapped, x)
    assert torch.allclose(out, F.layer_norm(x[:, -4:], (32,)), atol=1e-6)


@pytest.mark.parametrize("blocks", [3, 4])
def test_tokens_nobody_asks_for_are_left_out_at_the_end_without_changing_the_others(blocks: int):
    """The last block may attend to intents (3 blocks) or to the sequence (4)."""
    dit = Dit(width=32, blocks=blocks, heads=4, dropout=0.0)
    torch.nn.init.normal_(dit.modulation.weight, std=0.2)
    time = dit.modulations(torch.rand(6))
    x, keys = torch.randn(6, 7, 32), dit.intent_key_values(torch.randn(3, 5, 32))
    whole, tapped = dit(x, time, keys, last=7, tap=blocks)
    end, _ = dit(x, time, keys, last=4)
    assert torch.allclose(end, whole[:, -4:], atol=1e-5)
    assert tapped.shape == x.shape
    assert not torch.allclose(tapped, x, atol=1e-2)
