"""Attention of the language model over packed documents, as one of transformers' attention functions.

The linear layers see one sequence [1, T] without padding; attention is causal within each document. In half precision
on a GPU it is PyTorch's variable-length flash attention. Elsewhere documents of like length are gathered into batches
(`blm.model.documents`). In bfloat16 on a CPU short ones are then plain matrix products, because the fused kernel's
backward pass costs many times as much there: 32 documents of 60 to 250 tokens, 6 heads of 32, there and back on one
core: 34 ms, and 88 ms with the fused kernel; padded to the longest, 98 ms with plain products.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from blm.model.documents import Documents

NAME = "blm_packed"
MAX_PLAIN = 512
"""Longer documents take the fused kernel, whose memory does not grow with the square of their length."""


def use_packed_attention(language_model: nn.Module) -> None:
    """Make a transformers language model attend by `packed_attention`. What it saves does not mention it."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _mask)
    language_model.set_attn_implementation(NAME)


def _mask(*, q_length: int, kv_length: int, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """No mask where documents tell what is seen; that of PyTorch's attention for padding or a cache."""
    if attention_mask is None and q_length == kv_length:
        return None
    return sdpa_mask(q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **options)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    documents: Documents | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within documents, with grouped keys, as transformers calls it.

    query [1, heads, T, e], key and value [1, groups, T, e] -> [1, T, heads, e]. Without `documents` it is PyTorch's
    attention as transformers has it. ValueError for attention dropout and for windows shorter than a document.
    """
    if documents is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    window = options.get("sliding_window")
    if options.get("dropout") or (window is not None and window < documents.longest):
        raise ValueError("packed attention has no dropout, and no window shorter than a document")
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    # Rotary tables are float32 under autocast, and queries and keys with them.
    query, key = query.to(value.dtype), key.to(value.dtype)
    half = value.dtype in (torch.bfloat16, torch.float16)
    if value.device.type == "cuda" and half:
        return _variable_length(query, key, value, documents, scale), None
    return _batched(query, key, value, documents, scale, plain=half), None


def _variable_length(query: Tensor, key: Tensor, value: Tensor, documents: Documents, scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    ends, longest = documents.cumulative, documents.longest
    grouped = q.shape[1] != k.shape[1]
    out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, window_size=(-1, 0), enable_gqa=grouped)
    return out[None]


@torch.compiler.disable
def _batched(query: Tensor, key: Tensor, value: Tensor, documents: Documents, scale: float, *, plain: bool) -> Tensor:
    _, heads, length, width = query.shape
    groups = key.shape[1]
    layout = documents.layout(heads, groups)

    def rows(x: Tensor) -> Tensor:
        return x[0].transpose(0, 1).reshape(-1, width)

    q = _Rows.apply(rows(query), layout.query, layout.query_back, None)
    k = _Rows.apply(rows(key), layout.key, layout.key_back, None)
    v = _Rows.apply(rows(value), layout.key, layout.key_back, None)
    parts_q = q.split([n * heads * longest for n, longest in layout.shapes])
    parts_k = k.split([n * groups * longest for n, longest in layout.shapes])
    parts_v = v.split([n * groups * longest for n, longest in layout.shapes])
    outputs = []
    for (n, longest), a, b, c in zip(layout.shapes, parts_q, parts_k, parts_v, strict=True):
        if plain and longest <= MAX_PLAIN:
            out = _products(
                a.view(n * groups, -1, width), b.view(-1, longest, width), c.view(-1, longest, width), scale
            )
        else:
            a, b, c = (x.view(n, -1, longest, width) for x in (a, b, c))
            out = F.scaled_dot_product_attention(a, b, c, is_causal=True, scale=scale, enable_gqa=heads != groups)
        outputs.append(out.reshape(-1, width))
    attended = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    return _Rows.apply(attended, layout.query_back, layout.query, layout.padding).view(1, length, heads, width)


def _products(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """q [N, heads a group * L, e], k and v [N, L, e] -> like q; the heads of a group are rows of one product."""
    length = k.shape[1]
    future = torch.full((length, length), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    future = future.repeat(q.shape[1] // length, 1)
    return torch.baddbmm(future, q, k.transpose(1, 2), alpha=scale).softmax(dim=-1) @ v


class _Rows(torch.autograd.Function):
    """x[index] of rows, where `back` is the index that undoes it: both directions are gathers, never scattered sums.

    A gradient of rows in `padding` (places that nothing was taken from) is zero.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, padding: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, padding)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        back, padding = ctx.saved_tensors
        gradient = gradients[0].index_select(0, back)
        if padding is not None:
            gradient.index_fill_(0, padding, 0)
        return gradient, None, None, None
