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
from blm.model.errors import UserError
from blm.model.prompts import encode_chat, policy_messages
from blm.model.rope import mrope_positions
from blm.model.vision import TOKEN_PX, encode_images, tokens_per_image

PREPROCESSING_VERSION = 1  # part of the fingerprint: raise it when pictures or prompts are prepared in another way


@dataclass(frozen=True, kw_only=True, slots=True)
class Intents:
    """Hidden states from the first image token to the end of the prompt, right-padded to a fixed length."""

    states: Tensor
    """[B, L, d] in the extractor's dtype; zeros where padded."""
    mask: Tensor
    """bool [B, L], True on real tokens."""


class IntentExtractor:
    """The frozen MLLM up to block `layer`. `layer` k gives what transformers calls `hidden_states[k]`."""

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
        language_model = model.model.language_model
        if not 1 <= layer <= len(language_model.layers):
            raise UserError(f"intent layer {layer}: {model_dir} has blocks 1 to {len(language_model.layers)}")
        language_model.layers = language_model.layers[:layer]
        language_model.norm = nn.Identity()
        self._embed = model.get_input_embeddings()
        self._visual = model.model.visual
        self._language_model = language_model
        self._tokenizer = processor.tokenizer
        self._image_token_id = model.config.image_token_id
        self._prompts: dict[tuple[str, tuple[tuple[int, int], ...]], tuple[Tensor, Tensor]] = {}
        self.max_text_tokens = max_text_tokens
        self.width: int = language_model.config.hidden_size
        self.device, self.dtype = device, dtype
        self.fingerprint = fingerprint(model_dir, layer, max_text_tokens)

    def length(self, image_sizes_px: Sequence[tuple[int, int]]) -> int:
        """L for pictures of these (height, width)."""
        return sum(tokens_per_image(*size) for size in image_sizes_px) + 2 * len(image_sizes_px) + self.max_text_tokens

    @torch.inference_mode()
    def encode(self, images: Sequence[dict[str, np.ndarray]], instructions: Sequence[str]) -> Intents:
        """images: a dict camera -> uint8 [H, W, 3] an observation, cameras in one order and pictures of one size."""
        cameras = list(images[0])
        stacked = np.stack([observation[camera] for observation in images for camera in cameras])
        height, width = stacked.shape[1:3]
        grids = ((height // TOKEN_PX, width // TOKEN_PX),) * len(cameras)
        prompts = [self._prompt(instruction, grids) for instruction in instructions]
        full = max(len(ids) for ids, _ in prompts)
        input_ids = torch.stack([nn.functional.pad(ids, (0, full - len(ids))) for ids, _ in prompts])
        positions = torch.stack([nn.functional.pad(pos, (0, full - pos.shape[1])) for _, pos in prompts], dim=1)
        lengths = torch.tensor([len(ids) for ids, _ in prompts])

        embeddings = self._embed(input_ids.to(self.device))
        image_tokens = encode_images(self._visual, torch.from_numpy(stacked).to(self.device))
        is_image = (input_ids == self._image_token_id).unsqueeze(-1).to(self.device)
        embeddings = embeddings.masked_scatter(is_image, image_tokens.to(embeddings.dtype))
        hidden = self._language_model(
            inputs_embeds=embeddings, position_ids=positions.to(self.device), use_cache=False
        ).last_hidden_state

        first = int((input_ids[0] == self._image_token_id).nonzero()[0])
        kept = self.length([(height, width)] * len(cameras))
        if full - first > kept:
            raise UserError(
                f"instruction {max(instructions, key=len)!r} makes {full - first - kept} tokens more than"
                f" max_text_tokens={self.max_text_tokens} allows; shorten it or raise intents.max_text_tokens"
            )
        mask = torch.arange(kept)[None] < (lengths - first)[:, None]
        states = nn.functional.pad(hidden[:, first:], (0, 0, 0, kept - (full - first)))
        mask = mask.to(states.device)
        return Intents(states=states * mask.unsqueeze(-1), mask=mask)

    def _prompt(self, instruction: str, grids: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
        key = (instruction, grids)
        if key not in self._prompts:
            tokens = [rows * cols for rows, cols in grids]
            messages = policy_messages(len(grids), instruction)
            ids = encode_chat(self._tokenizer, messages, tokens, generation_prompt=True).input_ids
            positions = mrope_positions(ids, image_token_id=self._image_token_id, grids=grids)
            self._prompts[key] = (torch.tensor(ids), torch.from_numpy(positions).long())
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
