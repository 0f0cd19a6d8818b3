"""Intents: hidden states of the k-th block of the frozen multimodal LLM, on camera pictures and an instruction.

What lies above block k is never computed, nor loaded into the forward pass: the blocks are cut off, the final norm
with them. Pictures stand before the text and attention is causal, so the states of pictures do not depend on the
instruction: asked with several instructions about one observation, the model sees its pictures once.

Intents are bfloat16 numbers, whatever they were computed in. A cache on disk keeps them so, and a policy trained on
the cache must get the same numbers when the model runs live.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.activations import SiLUActivation

from blm.model.backbone import load_backbone
from blm.model.chat_encoder import ChatEncoder
from blm.model.errors import UserError
from blm.model.families import parts_of
from blm.model.intent_hashes import fingerprint
from blm.model.invariant import RowSiLU, linear, make_invariant
from blm.model.packing import join_inputs
from blm.model.prompts import policy_messages
from blm.model.training import mixed_precision
from blm.model.vision import encode_images

Sizes = tuple[tuple[int, int], ...]
"""(height, width) of each picture, px."""
BESIDE_MEDIA = 2  # tokens kept besides those of the pictures and `max_text_tokens`: their closing marker, and a spare
ROWS = 32
"""Observations a forward pass: larger batches fall out of the cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Intents:
    """Hidden states from the first image token to the end of the prompt, right-padded to a fixed length."""

    states: Tensor
    """bfloat16 [B, L, d]; zeros where padded."""
    mask: Tensor
    """bool [B, L], True on real tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IntentParts:
    """The same before it is rounded and joined: what belongs to the pictures once, and what belongs to each text."""

    pictures: Tensor
    """[B, P, d]: from the first image token to the last."""
    texts: Tensor
    """[T, L, d]: what stands behind them, of each text of each observation in order; meaningless where padded."""
    lengths: Tensor
    """int64 [T]: real tokens of each."""


class IntentExtractor:
    """The frozen MLLM up to block `layer`. `layer` k gives what enters block k + 1, as a rule what transformers
    calls `hidden_states[k]`."""

    def __init__(
        self,
        model_dir: str | Path,
        *,
        layer: int,
        max_text_tokens: int = 32,
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
        self._model, self._parts = model, parts
        self._encoder = ChatEncoder(processor, model.config)
        self._image_token_id: int = model.config.image_token_id
        self._prompts: dict[tuple[str, Sizes], tuple[Tensor, Tensor]] = {}
        self._mixed = mixed_precision(torch.device(device), "float32")
        if precision == "bfloat16" and dtype == torch.float32:
            self._mixed = mixed_precision(torch.device(device), "bfloat16")
            for module in (m for part in (parts.vision, *parts.mergers, parts.language) for m in part.modules()):
                if isinstance(module, nn.Linear):
                    module.to(torch.bfloat16)  # once, instead of in every forward pass
        self._invariant = invariant and torch.device(device).type == "cpu"
        if self._invariant:
            make_invariant(model, {SiLUActivation: RowSiLU})
            if precision == "float32" and dtype == torch.float32:
                parts.vision.blm_linear = linear
        self.max_text_tokens = max_text_tokens
        self.width: int = model.config.get_text_config().hidden_size
        self.device, self.dtype, self.precision = device, dtype, precision
        self.fingerprint = fingerprint(model_dir, layer, max_text_tokens)

    def length(self, image_sizes_px: Sequence[tuple[int, int]]) -> int:
        """L for pictures of these (height, width)."""
        places = self._places(tuple(image_sizes_px))
        return int(places[-1] - places[0]) + 1 + BESIDE_MEDIA + self.max_text_tokens

    def encode(self, images: Sequence[dict[str, np.ndarray]], instructions: Sequence[str]) -> Intents:
        """images: a dict camera -> uint8 [H, W, 3] an observation, cameras in one order and pictures of one size."""
        return self.encode_stacked(np.stack([np.stack(list(one.values())) for one in images]), instructions)

    def encode_stacked(
        self, pictures: np.ndarray | Tensor, instructions: Sequence[str], *, exact: bool = False
    ) -> Intents:
        """pictures uint8 [B, cameras, H, W, 3]. exact: the bits of a row must not depend on the size of the batch;
        where the layers do not see to it, the last forward pass is filled up to ROWS. UserError for an instruction that
        is too long."""
        length = self.length((tuple(pictures.shape[2:4]),) * pictures.shape[1])
        states, masks = [], []
        for first in range(0, len(instructions), ROWS):
            texts = [(text,) for text in instructions[first : first + ROWS]]
            parts = self.parts(pictures[first : first + ROWS], texts, exact=exact)
            joined = torch.cat([parts.pictures, parts.texts], dim=1).to(torch.bfloat16)
            reach = parts.pictures.shape[1] + parts.lengths
            mask = torch.arange(length, device=joined.device)[None] < reach[:, None]
            states.append(F.pad(joined, (0, 0, 0, length - joined.shape[1])) * mask.unsqueeze(-1))
            masks.append(mask)
        return Intents(states=torch.cat(states), mask=torch.cat(masks))

    @torch.no_grad()
    def parts(
        self, pictures: np.ndarray | Tensor, texts: Sequence[Sequence[str]], *, exact: bool = False
    ) -> IntentParts:
        """One forward pass: pictures uint8 [B, cameras, H, W, 3], B up to ROWS, and the instructions asked about each.
        exact and UserError as `encode_stacked`."""
        pixels, wanted = torch.as_tensor(pictures), len(texts)
        asked = [(row, text) for row, several in enumerate(texts) for text in several]
        n_texts = len(asked)
        if exact and not self._invariant and wanted < ROWS:
            pixels = torch.cat([pixels, pixels[-1:].expand(ROWS - wanted, -1, -1, -1, -1)])
            asked += [(row, text) for row in range(wanted, ROWS) for text in texts[-1]]
        sizes: Sizes = ((pixels.shape[2], pixels.shape[3]),) * pixels.shape[1]
        prompts = [self._prompt(text, sizes) for _, text in asked]
        places = self._places(sizes)
        begin = int(places[-1]) + 1
        lengths = torch.tensor([len(ids) - begin for ids, _ in prompts])
        self._check_length([text for _, text in asked], lengths)
        # Padding stands behind, where attention, being causal, never sees it. But how far it reaches decides about the
        # order of sums in the kernels of attention: the longest text of a batch must not.
        longest = BESIDE_MEDIA + self.max_text_tokens if self._invariant else int(lengths.max())
        full = begin + longest
        ids = torch.stack([F.pad(ids, (0, full - len(ids))) for ids, _ in prompts]).to(self.device)
        positions = torch.stack([F.pad(where, (0, full - where.shape[1])) for _, where in prompts], dim=1)
        positions = positions.to(self.device)
        with self._mixed:
            if len(asked) == len(pixels):
                hidden = self._seen(ids, positions, pixels, places)
                seen, read = hidden[:, :begin], hidden[:, begin:]
            else:
                rows = torch.tensor([row for row, _ in asked], device=self.device)
                seen, read = self._shared(ids, positions, pixels, places, rows)
        return IntentParts(
            pictures=seen[:wanted, int(places[0]) :],
            texts=read[:n_texts, : int(lengths[:n_texts].max())],
            lengths=lengths[:n_texts].to(self.device),
        )

    def _shared(
        self, ids: Tensor, positions: Tensor, pixels: Tensor, places: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States [B, .., d] up to the last image token, once an observation, and [T, .., d] behind it, once a text.
        rows int64 [T]: the observation of each text."""
        begin = int(places[-1]) + 1
        first = (rows[None] == torch.arange(len(pixels), device=self.device)[:, None]).int().argmax(dim=1)
        cache = DynamicCache()
        seen = self._seen(ids[first, :begin], positions[:, first, :begin], pixels, places, cache)
        cache.batch_select_indices(rows)
        embeddings = self._model.get_input_embeddings()(ids[:, begin:])
        behind = positions[:, :, begin:]
        read = self._parts.language(
            inputs_embeds=embeddings,
            position_ids=behind if len(behind) > 1 else behind[0],
            past_key_values=cache,
            use_cache=True,
        )
        return seen, read.last_hidden_state

    def _seen(
        self, ids: Tensor, positions: Tensor, pixels: Tensor, places: Tensor, cache: DynamicCache | None = None
    ) -> Tensor:
        """States [B, L, d] of the last block kept, for one prompt an observation."""
        keep = {"past_key_values": cache, "use_cache": cache is not None}
        if not self._encoder.family.fast_vision:
            inputs = join_inputs([self._encoder.media(list(row.cpu().numpy())) for row in pixels])
            floating = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            return self._model.model(
                input_ids=ids,
                position_ids=positions if len(positions) > 1 else positions[0],
                **keep,
                **{n: t.to(self.dtype) if t.is_floating_point() else t for n, t in floating.items()},
            ).last_hidden_state
        stacked = pixels.flatten(0, 1)
        if self._encoder.resized(*stacked.shape[1:3]) != tuple(stacked.shape[1:3]):
            stacked = torch.from_numpy(np.stack(self._encoder.media(list(stacked.cpu().numpy())).images))
        image_tokens = encode_images(self._parts.vision, stacked.to(self.device))
        embeddings = self._model.get_input_embeddings()(ids)
        embeddings[:, places.to(self.device)] = image_tokens.reshape(len(ids), len(places), -1).to(embeddings.dtype)
        return self._parts.language(inputs_embeds=embeddings, position_ids=positions, **keep).last_hidden_state

    def _places(self, sizes: Sizes) -> Tensor:
        """Where in a prompt the image tokens stand: the same in all, since pictures come first."""
        return (self._prompt("", sizes)[0] == self._image_token_id).nonzero()[:, 0]

    def _check_length(self, texts: Sequence[str], lengths: Tensor) -> None:
        over = int(lengths.max()) - BESIDE_MEDIA - self.max_text_tokens
        if over > 0:
            raise UserError(
                f"instruction {texts[int(lengths.argmax())]!r} makes {over} tokens more than"
                f" max_text_tokens={self.max_text_tokens} allows; shorten it or raise intents.max_text_tokens"
            )

    def _prompt(self, instruction: str, sizes: Sizes) -> tuple[Tensor, Tensor]:
        key = (instruction, sizes)
        if key not in self._prompts:
            messages = policy_messages(len(sizes), instruction)
            chat = self._encoder.encode(messages, sizes, generation_prompt=True)
            self._prompts[key] = (torch.from_numpy(chat.input_ids).long(), torch.from_numpy(chat.positions).long())
        return self._prompts[key]
