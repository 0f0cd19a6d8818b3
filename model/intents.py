"""Intents: hidden states of the k-th block of the frozen multimodal LLM, on camera pictures and an instruction.

What lies above block k is never computed, nor loaded into the forward pass: the blocks are cut off, the final norm
with them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from blm.model.backbone import load_backbone
from blm.model.chat_encoder import ChatEncoder
from blm.model.errors import UserError
from blm.model.families import parts_of
from blm.model.packing import join_inputs
from blm.model.prompts import policy_messages
from blm.model.vision import encode_images

Sizes = tuple[tuple[int, int], ...]
"""(height, width) of each picture, px."""
BESIDE_MEDIA = 2  # tokens kept besides those of the pictures and `max_text_tokens`: their closing marker, and a spare
PREPROCESSING_VERSION = 1  # part of the fingerprint: raise it when pictures or prompts are prepared in another way


@dataclass(frozen=True, kw_only=True, slots=True)
class Intents:
    """Hidden states from the first image token to the end of the prompt, right-padded to a fixed length."""

    states: Tensor
    """[B, L, d] in the extractor's dtype; zeros where padded."""
    mask: Tensor
    """bool [B, L], True on real tokens."""


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
    ) -> None:
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
        self.max_text_tokens = max_text_tokens
        self.width: int = model.config.get_text_config().hidden_size
        self.device, self.dtype = device, dtype
        self.fingerprint = fingerprint(model_dir, layer, max_text_tokens)

    def length(self, image_sizes_px: Sequence[tuple[int, int]]) -> int:
        """L for pictures of these (height, width)."""
        ids, _ = self._prompt("", tuple(image_sizes_px))
        places = (ids == self._image_token_id).nonzero()
        return int(places[-1] - places[0]) + 1 + BESIDE_MEDIA + self.max_text_tokens

    @torch.inference_mode()
    def encode(self, images: Sequence[dict[str, np.ndarray]], instructions: Sequence[str]) -> Intents:
        """images: a dict camera -> uint8 [H, W, 3] an observation, cameras in one order and pictures of one size."""
        pictures = [list(observation.values()) for observation in images]
        sizes: Sizes = tuple(picture.shape[:2] for picture in pictures[0])
        prompts = [self._prompt(instruction, sizes) for instruction in instructions]
        full = max(len(ids) for ids, _ in prompts)
        # Padding stands behind, where attention, being causal, never sees it.
        input_ids = torch.stack([nn.functional.pad(ids, (0, full - len(ids))) for ids, _ in prompts])
        positions = torch.stack([nn.functional.pad(pos, (0, full - pos.shape[1])) for _, pos in prompts], dim=1)
        lengths = torch.tensor([len(ids) for ids, _ in prompts])
        hidden = self._hidden(input_ids.to(self.device), positions.to(self.device), pictures)

        first = int((input_ids[0] == self._image_token_id).nonzero()[0])
        kept = self.length(sizes)
        if full - first > kept:
            raise UserError(
                f"instruction {max(instructions, key=len)!r} makes {full - first - kept} tokens more than"
                f" max_text_tokens={self.max_text_tokens} allows; shorten it or raise intents.max_text_tokens"
            )
        mask = torch.arange(kept)[None] < (lengths - first)[:, None]
        states = nn.functional.pad(hidden[:, first:], (0, 0, 0, kept - (full - first)))
        mask = mask.to(states.device)
        return Intents(states=states * mask.unsqueeze(-1), mask=mask)

    def _hidden(self, input_ids: Tensor, positions: Tensor, pictures: list[list[np.ndarray]]) -> Tensor:
        """States [B, L, d] of the last block kept."""
        if not self._encoder.family.fast_vision:
            inputs = join_inputs([self._encoder.media(row) for row in pictures])
            return self._model.model(
                input_ids=input_ids,
                position_ids=positions if len(positions) > 1 else positions[0],
                use_cache=False,
                **{
                    name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
                    for name, tensor in inputs.items()
                },
            ).last_hidden_state
        stacked = np.stack([picture for row in pictures for picture in row])
        if self._encoder.resized(*stacked.shape[1:3]) != stacked.shape[1:3]:
            stacked = np.stack(self._encoder.media(list(stacked)).images)
        image_tokens = encode_images(self._parts.vision, torch.from_numpy(stacked).to(self.device))
        embeddings = self._model.get_input_embeddings()(input_ids)
        is_image = (input_ids == self._image_token_id).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(is_image, image_tokens.to(embeddings.dtype))
        return self._parts.language(inputs_embeds=embeddings, position_ids=positions, use_cache=False).last_hidden_state

    def _prompt(self, instruction: str, sizes: Sizes) -> tuple[Tensor, Tensor]:
        key = (instruction, sizes)
        if key not in self._prompts:
            messages = policy_messages(len(sizes), instruction)
            chat = self._encoder.encode(messages, sizes, generation_prompt=True)
            self._prompts[key] = (torch.from_numpy(chat.input_ids).long(), torch.from_numpy(chat.positions).long())
        return self._prompts[key]


def fingerprint(model_dir: str | Path, layer: int, max_text_tokens: int) -> str:
    """Hash of weights, tokenizer, chat format, preprocessing and layer: what an intent depends on besides its
    input."""
    digest = hashlib.sha256(f"{PREPROCESSING_VERSION}:{layer}:{max_text_tokens}".encode())
    digest.update(policy_messages(1, "{instruction}")[0]["text"].encode())
    files = [*sorted(Path(model_dir).glob("model*.safetensors")), Path(model_dir) / "tokenizer.json"]
    for file in files:
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
