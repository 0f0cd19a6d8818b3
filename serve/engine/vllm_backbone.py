"""The policy looks through vLLM's own layers: hidden states of block k from the model that vLLM has loaded.

No weight is copied or viewed: the layers themselves are called, whatever vLLM has made of their weights (on a CPU it
packs them and throws the originals away; elsewhere they may be quantised or split over GPUs). Its vision tower runs as
it is; of each language block the norms, projections and rotary embedding run as they are, with plain causal attention
over a batch of prompts between them in place of vLLM's attention over its cache, which belongs to conversations.
Shapes as in `model/lower_blocks.py`; N tokens of all prompts together.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blm.model.chat_encoder import ChatEncoder
from blm.model.errors import UserError
from blm.model.lower_blocks import first_prompts, whole_tokens
from blm.model.vision import PATCH_PX, patch_bytes, patchify

_OF_BLOCK = ("input_layernorm", "post_attention_layernorm", "mlp", "self_attn")
_OF_ATTENTION = ("qkv_proj", "o_proj", "rotary_emb", "q_size", "kv_size", "head_dim")


class BorrowedBlocks:
    """`LowerBlocks` of a model that vLLM has loaded."""

    invariant = False  # vLLM's products choose their kernels by the number of rows

    def __init__(self, model: Any, folder: Path, *, layer: int, device: torch.device) -> None:
        """model: vLLM's Qwen2.5-VL, loaded from `folder`. UserError for a model that is put together in another way,
        and for a block that it does not have."""
        self.encoder = ChatEncoder.load(folder)
        self.device = str(device)
        self._visual, self._language = _parts(model)
        self.dtype: torch.dtype = self._visual.dtype
        blocks = self._language.layers
        if not 1 <= layer <= len(blocks):
            raise UserError(f"intent layer {layer}: {folder} has blocks 1 to {len(blocks)}")
        self._blocks = [_checked(block) for block in blocks[:layer]]

    def hidden(
        self, ids: Tensor, positions: Tensor, pixels: Tensor, places: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `LowerBlocks`."""
        embeddings = self._language.embed_tokens(ids.flatten()).view(*ids.shape, -1)
        pictures = self._look(pixels).view(len(pixels), len(places), -1)
        embeddings[:, places.to(ids.device)] = pictures[rows].to(embeddings.dtype)
        states = self._read(embeddings, positions)
        begin = int(places[-1]) + 1
        return states[first_prompts(rows, len(pixels)), :begin], states[:, begin:]

    def _look(self, pixels: Tensor) -> Tensor:
        """Image tokens [B * I, d]."""
        pictures = whole_tokens(self.encoder, pixels).to(self.device)
        n, height, width, _ = pictures.shape
        normalises = self._visual.input_norm.input_dtype is not None
        patches = patch_bytes(pictures) if normalises else patchify(pictures).to(self._visual.dtype)
        grids = [[1, height // PATCH_PX, width // PATCH_PX]] * n
        return self._visual(patches.flatten(0, 1), grid_thw=grids)

    def _read(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """States [T, L, d] behind the last block."""
        prompts, length, _ = embeddings.shape
        x, where = embeddings.flatten(0, 1), positions.flatten(1)
        residual = None
        for block in self._blocks:
            if residual is None:
                x, residual = block.input_layernorm(x), x
            else:
                x, residual = block.input_layernorm(x, residual)
            x = _attention(block.self_attn, x, where, prompts)
            x, residual = block.post_attention_layernorm(x, residual)
            x = block.mlp(x)
        assert residual is not None
        return (x + residual).view(prompts, length, -1)


def _attention(attention: Any, x: Tensor, positions: Tensor, prompts: int) -> Tensor:
    """x [N, d], positions [P, N] -> [N, d]: every token looks at those of its prompt up to itself."""
    projected, _ = attention.qkv_proj(x)
    q, k, v = projected.split([attention.q_size, attention.kv_size, attention.kv_size], dim=-1)
    q, k = attention.rotary_emb(positions if len(positions) > 1 else positions[0], q.contiguous(), k.contiguous())
    q, k, v = (
        part.reshape(prompts, -1, part.shape[-1] // attention.head_dim, attention.head_dim) for part in (q, k, v)
    )
    groups = q.shape[2] // k.shape[2]
    k, v = (part.repeat_interleave(groups, dim=2) for part in (k, v))
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out, _ = attention.o_proj(seen.transpose(1, 2).reshape(len(x), -1))
    return out


def _parts(model: Any) -> tuple[Any, Any]:
    """Vision tower and language model."""
    visual, language = getattr(model, "visual", None), getattr(getattr(model, "language_model", None), "model", None)
    for part, name in ((visual, "input_norm"), (visual, "merger"), (language, "layers"), (language, "embed_tokens")):
        if not hasattr(part, name):
            raise _foreign(type(model).__name__)
    return visual, language


def _checked(block: nn.Module) -> Any:
    attention = getattr(block, "self_attn", None)
    known = all(hasattr(block, name) for name in _OF_BLOCK) and all(hasattr(attention, name) for name in _OF_ATTENTION)
    if not known or getattr(attention, "qk_norm", False):
        raise _foreign(type(block).__name__)
    return block


def _foreign(name: str) -> UserError:
    return UserError(f"this vLLM's {name} is put together in another way; set actions.sharing to copies")
