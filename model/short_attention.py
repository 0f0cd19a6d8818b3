"""Attention of the language model in training on CPU: two batched matrix products instead of PyTorch's fused kernel.

Conversations of a small model are a few hundred tokens long. At that length the fused CPU kernel's backward pass in
bfloat16 costs many times as much as plain products: one layer on 16 conversations of 186 tokens with 6 heads of 32
takes one core 62 ms there and back, 27 ms in float32, and 13 ms here. Everywhere else the fused kernel is used.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "blm_short"
MAX_TOKENS = 512
"""Longer sequences take the fused kernel, whose memory does not grow with the square of their length."""


def use_short_attention(language_model: nn.Module) -> None:
    """Make a transformers language model attend by `short_attention`. What it saves does not mention it."""
    AttentionInterface.register(NAME, short_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    language_model.set_attn_implementation(NAME)


def short_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Causal attention with grouped keys, as transformers calls it.

    query [B, heads, T, e], key and value [B, groups, T, e] -> [B, T, heads, e].
    """
    batch, heads, length, width = query.shape
    plain = attention_mask is None and length == key.shape[2] and not options.get("dropout")
    on_cpu = value.device.type == "cpu" and value.dtype == torch.bfloat16
    if not (on_cpu and plain and length <= MAX_TOKENS):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    groups = key.shape[1]
    scaled = query * options.get("scaling", width**-0.5)
    scores = scaled.reshape(batch, groups, -1, width) @ key.transpose(
        -1, -2
    )  # heads of a group are rows of one product
    future = torch.full((length, length), -torch.inf, dtype=scores.dtype).triu(1)
    weights = (scores.unflatten(2, (-1, length)) + future).softmax(dim=-1).flatten(2, 3)
    return (weights @ value).view(batch, heads, length, width).transpose(1, 2), None
