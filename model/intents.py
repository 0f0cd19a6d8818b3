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
from torch import Tensor
from torch.nn import functional as F

from blm.model.errors import UserError
from blm.model.intent_hashes import fingerprint
from blm.model.lower_blocks import LowerBlocks, OwnBlocks
from blm.model.prompts import policy_messages

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
        blocks: LowerBlocks | None = None,
    ) -> None:
        """device, dtype, precision, invariant: as `OwnBlocks`. blocks: of this folder's model up to this layer, loaded
        already; then the four concern them no more. UserError for a block that the model does not have."""
        self.blocks: LowerBlocks = blocks or OwnBlocks(
            model_dir, layer=layer, device=device, dtype=dtype, precision=precision, invariant=invariant
        )
        self.device = self.blocks.device
        self._encoder = self.blocks.encoder
        self._invariant = self.blocks.invariant
        self._image_token_id: int = self._encoder.config.image_token_id
        self._prompts: dict[tuple[str, Sizes], tuple[Tensor, Tensor]] = {}
        self.max_text_tokens = max_text_tokens
        self.width: int = self._encoder.config.get_text_config().hidden_size
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
        rows = torch.tensor([row for row, _ in asked], device=self.device)
        seen, read = self.blocks.hidden(ids, positions, pixels, places, rows)
        return IntentParts(
            pictures=seen[:wanted, int(places[0]) :],
            texts=read[:n_texts, : int(lengths[:n_texts].max())],
            lengths=lengths[:n_texts].to(self.device),
        )

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
