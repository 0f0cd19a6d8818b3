"""The lower blocks of a multimodal model, wherever its weights are: what an `IntentExtractor` asks for hidden states.

`OwnBlocks` are loaded with transformers, and what lies above block k is cut off. A server borrows those of the model
that it talks with (`serve/engine/vllm_backbone.py`).
Shapes: B observations, T prompts about them, L tokens of a prompt, I image tokens, d the language model's width.
"""

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

import blm.model.lean  # noqa: F401  # isort: skip
from transformers import DynamicCache
from transformers.activations import SiLUActivation

from blm.model.backbone import load_backbone
from blm.model.chat_encoder import ChatEncoder
from blm.model.errors import UserError
from blm.model.families import parts_of
from blm.model.invariant import RowSiLU, linear, make_invariant
from blm.model.packing import join_inputs
from blm.model.training import cast_linears, mixed_precision
from blm.model.vision import encode_images


class LowerBlocks(Protocol):
    """A multimodal model up to block k."""

    encoder: ChatEncoder
    """Its prompts."""
    device: str
    """Where it computes."""
    dtype: torch.dtype
    """In what its weights are."""
    invariant: bool
    """Whether the bits of a row do not depend on the batch it is in, if all prompts are padded alike."""

    def hidden(
        self, ids: Tensor, positions: Tensor, pixels: Tensor, places: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States of block k: [B, I', d] up to the last image token, once an observation, and [T, L - I', d] behind it.

        ids int64 [T, L] and positions int64 [P, T, L], padded behind; pixels uint8 [B, cameras, H, W, 3]; places int64
        [I]: where the image tokens stand in every prompt; rows int64 [T]: the observation of each prompt.
        """


class OwnBlocks:
    """`LowerBlocks` with weights of their own."""

    def __init__(
        self,
        model_dir: str | Path,
        *,
        layer: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        precision: Literal["float32", "bfloat16"] = "float32",
        invariant: bool = True,
    ) -> None:
        """precision: of matrix products where the weights (`dtype`) are float32. invariant: on a CPU, the bits of a row
        do not depend on the batch it is in. UserError for a block that the model does not have."""
        model, processor = load_backbone(model_dir, device=device, dtype=dtype)
        parts = parts_of(model)
        if not 1 <= layer <= len(parts.language_blocks):
            raise UserError(f"intent layer {layer}: {model_dir} has blocks 1 to {len(parts.language_blocks)}")
        parts.language.layers = parts.language.layers[:layer]
        parts.language.norm = nn.Identity()
        self.model, self.parts = model, parts
        self.encoder = ChatEncoder(processor, model.config)
        self._mixed = mixed_precision(torch.device(device), "float32")
        if precision == "bfloat16" and dtype == torch.float32:
            self._mixed = mixed_precision(torch.device(device), "bfloat16")
            for part in (parts.vision, *parts.mergers, parts.language):
                cast_linears(part, torch.bfloat16)
        self.invariant = invariant and torch.device(device).type == "cpu"
        if self.invariant:
            make_invariant(model, {SiLUActivation: RowSiLU})
            if precision == "float32" and dtype == torch.float32:
                parts.vision.blm_linear = linear
        self.device, self.dtype = device, dtype

    def hidden(
        self, ids: Tensor, positions: Tensor, pixels: Tensor, places: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `LowerBlocks`; several prompts about one observation share the pass over its pictures."""
        begin = int(places[-1]) + 1
        with self._mixed:
            if len(ids) == len(pixels):
                states = self.seen(ids, positions, pixels, places)
                return states[:, :begin], states[:, begin:]
            first = first_prompts(rows, len(pixels))
            cache = DynamicCache()
            seen = self.seen(ids[first, :begin], positions[:, first, :begin], pixels, places, cache)
            cache.batch_select_indices(rows)
            embeddings = self.model.get_input_embeddings()(ids[:, begin:])
            behind = positions[:, :, begin:]
            read = self.parts.language(
                inputs_embeds=embeddings,
                position_ids=behind if len(behind) > 1 else behind[0],
                past_key_values=cache,
                use_cache=True,
            )
            return seen, read.last_hidden_state

    def seen(
        self, ids: Tensor, positions: Tensor, pixels: Tensor, places: Tensor, cache: DynamicCache | None = None
    ) -> Tensor:
        """States [B, L, d] of the last block kept, for one prompt an observation."""
        keep: dict[str, Any] = {"past_key_values": cache, "use_cache": cache is not None}
        if not self.encoder.family.fast_vision:
            inputs = join_inputs([self.encoder.media(list(row.cpu().numpy())) for row in pixels])
            floating = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            return self.model.model(
                input_ids=ids,
                position_ids=positions if len(positions) > 1 else positions[0],
                **keep,
                **{n: t.to(self.dtype) if t.is_floating_point() else t for n, t in floating.items()},
            ).last_hidden_state
        image_tokens = encode_images(self.parts.vision, whole_tokens(self.encoder, pixels).to(self.device))
        embeddings = self.model.get_input_embeddings()(ids)
        embeddings[:, places.to(self.device)] = image_tokens.reshape(len(ids), len(places), -1).to(embeddings.dtype)
        return self.parts.language(inputs_embeds=embeddings, position_ids=positions, **keep).last_hidden_state


def first_prompts(rows: Tensor, observations: int) -> Tensor:
    """int64 [B]: the first prompt about each observation."""
    return (rows[None] == torch.arange(observations, device=rows.device)[:, None]).int().argmax(dim=1)


def whole_tokens(encoder: ChatEncoder, pixels: Tensor) -> Tensor:
    """uint8 [B, cameras, H, W, 3] -> [B * cameras, H', W', 3], resized as the model's processor does it where a side is
    no multiple of a token."""
    stacked = pixels.flatten(0, 1)
    if encoder.resized(*stacked.shape[1:3]) != tuple(stacked.shape[1:3]):
        return torch.from_numpy(np.stack(encoder.media(list(stacked.cpu().numpy())).images))
    return stacked
