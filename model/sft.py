"""Supervised fine-tuning of the multimodal LLM: batches, answer-only loss, and the dense grounding loss.

Shapes: B conversations, L tokens, M pictures in the whole batch, T tokens a picture, d model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blm.model.prompts import IGNORE_INDEX
from blm.model.vision import TOKEN_PX, encode_images

N_POINTS = 3
"""Points the grounding head finds in a picture: gripper, object and goal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedRow:
    """One tokenised conversation with its decoded pictures."""

    input_ids: np.ndarray
    """int32 [L]."""
    labels: np.ndarray
    """int32 [L], IGNORE_INDEX where no loss counts."""
    positions: np.ndarray
    """int32 [3, L] multimodal rotary positions."""
    images: np.ndarray
    """uint8 [M, H, W, 3]; M may be 0."""
    points_px: np.ndarray
    """float32 [M, 3, 2] true pixel (x, y) of gripper, object and goal in each picture; NaN without simulator
    truth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SftBatch:
    """Right-padded conversations and all their pictures, which must be of one size."""

    input_ids: Tensor
    """int64 [B, L]."""
    labels: Tensor
    """int64 [B, L]."""
    positions: Tensor
    """int64 [3, B, L]."""
    images: Tensor
    """uint8 [M, H, W, 3]."""
    points_px: Tensor
    """float32 [M, 3, 2], NaN where unknown."""

    def to(self, device: torch.device) -> "SftBatch":
        """The batch on `device`."""
        return SftBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def collate(rows: Sequence[EncodedRow], pad_token_id: int) -> SftBatch:
    """Pad to the longest row. Causal attention keeps right padding from touching what stands before it."""
    length = max(len(row.input_ids) for row in rows)
    input_ids = np.full((len(rows), length), pad_token_id, dtype=np.int64)
    labels = np.full((len(rows), length), IGNORE_INDEX, dtype=np.int64)
    positions = np.zeros((3, len(rows), length), dtype=np.int64)
    for i, row in enumerate(rows):
        n = len(row.input_ids)
        input_ids[i, :n], labels[i, :n], positions[:, i, :n] = row.input_ids, row.labels, row.positions
    pictures = [row.images for row in rows if len(row.images)]
    images = np.concatenate(pictures) if pictures else np.zeros((0, 28, 28, 3), dtype=np.uint8)
    points = [row.points_px for row in rows if len(row.images)]
    points_px = np.concatenate(points) if points else np.zeros((0, N_POINTS, 2), dtype=np.float32)
    return SftBatch(
        input_ids=torch.from_numpy(input_ids),
        labels=torch.from_numpy(labels),
        positions=torch.from_numpy(positions),
        images=torch.from_numpy(images),
        points_px=torch.from_numpy(points_px),
    )


class GroundingHead(nn.Module):
    """Finds gripper, object and goal from each image token: the dense target that teaches a vision tower made from
    scratch.

    Every token says whether a point lies in its 28 px cell, and tokens near a point say where it is relative to
    them. Such a local question is learned in a few hundred steps, where "where is the cube?" asked of the whole
    network sits on a plateau for a thousand. It stands in for the vision pre-training that a published backbone
    brings along, and is thrown away after Stage I.
    """

    near_cells = 1.25  # tokens within this many cells of a point regress their offset to it
    presence_weight = 4.0  # one cell in sixteen holds a point

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 3 * N_POINTS)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [M, T, d] -> presence logits [M, T, 3] and offsets [M, T, 3, 2] in cells from the token's centre."""
        out = self.out(self.norm(tokens))
        return out[..., :N_POINTS], out[..., N_POINTS:].unflatten(-1, (N_POINTS, 2))

    def loss(self, tokens: Tensor, points_px: Tensor, columns: int) -> Tensor:
        """Presence cross entropy + mean absolute offset error. points_px [M, 3, 2]; pictures with NaN are skipped."""
        known = ~torch.isnan(points_px).flatten(1).any(dim=1)
        if not known.any():
            return tokens.sum() * 0.0
        presence, offsets = self(tokens[known])
        target = self._offsets(points_px[known], tokens.shape[1], columns)
        distance = target.abs().amax(dim=-1)
        near = distance < self.near_cells
        inside = (distance <= 0.5).to(presence.dtype)
        weight = torch.full((), self.presence_weight, device=tokens.device)
        presence_loss = F.binary_cross_entropy_with_logits(presence, inside, pos_weight=weight)
        offset_loss = ((offsets - target).abs().mean(dim=-1) * near).sum() / near.sum().clamp(min=1)
        return presence_loss + offset_loss

    @staticmethod
    def _offsets(points_px: Tensor, n_tokens: int, columns: int) -> Tensor:
        index = torch.arange(n_tokens, device=points_px.device)
        centres = (torch.stack([index % columns, index // columns], dim=-1) + 0.5) * TOKEN_PX
        return (points_px[:, None] - centres[None, :, None]) / TOKEN_PX


def forward_hidden(model: nn.Module, batch: SftBatch) -> tuple[Tensor, Tensor]:
    """Final hidden states [B, L, d] and image tokens [M, T, d] of a Qwen2.5-VL on a batch."""
    embeddings = model.get_input_embeddings()(batch.input_ids)
    image_tokens = embeddings.new_zeros(0, 1, embeddings.shape[-1])
    if len(batch.images):
        image_tokens = encode_images(model.model.visual, batch.images)
        is_image = (batch.input_ids == model.config.image_token_id).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(is_image, image_tokens.to(embeddings.dtype))
    output = model.model.language_model(inputs_embeds=embeddings, position_ids=batch.positions, use_cache=False)
    return output.last_hidden_state, image_tokens


def answer_logits(model: nn.Module, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, vocabulary] and labels [N] of the answer tokens alone; the head never runs over prompts and
    padding."""
    shifted = labels[:, 1:]
    counts = shifted != IGNORE_INDEX
    return model.lm_head(hidden[:, :-1][counts]), shifted[counts]


def grounding_loss(head: GroundingHead | None, image_tokens: Tensor, batch: SftBatch) -> Tensor:
    """The head's loss on a batch's image tokens [M, T, d]; zero without a head."""
    if head is None or len(batch.images) == 0:
        return image_tokens.sum() * 0.0
    return head.loss(image_tokens, batch.points_px, batch.images.shape[2] // TOKEN_PX)


class SftModule(nn.Module):
    """MLLM and grounding head with both losses in one forward, as data-parallel wrappers want it."""

    def __init__(self, mllm: nn.Module, head: GroundingHead | None) -> None:
        super().__init__()
        self.mllm = mllm
        self.head = head

    def forward(self, batch: SftBatch, vision_only: bool = False) -> tuple[Tensor, Tensor]:
        """(mean cross entropy over answer tokens, grounding loss). With `vision_only` the language model does not
        run."""
        if vision_only:
            grounding = grounding_loss(self.head, encode_images(self.mllm.model.visual, batch.images), batch)
            return grounding.new_zeros(()), grounding
        hidden, image_tokens = forward_hidden(self.mllm, batch)
        logits, labels = answer_logits(self.mllm, hidden, batch.labels)
        language = F.cross_entropy(logits.float(), labels)
        return language, grounding_loss(self.head, image_tokens, batch)


@torch.no_grad()
def correct_answers(model: nn.Module, batch: SftBatch) -> Tensor:
    """bool [B]: is every answer token of the row the most likely one (given the true ones before it)?"""
    hidden, _ = forward_hidden(model, batch)
    predicted = model.lm_head(hidden[:, :-1]).argmax(dim=-1)
    shifted = batch.labels[:, 1:]
    return ((predicted == shifted) | (shifted == IGNORE_INDEX)).all(dim=1)
