"""Supervised fine-tuning of the multimodal LLM on packed conversations: answer-only loss and dense grounding loss.

Losses are sums over answer tokens and pictures, so that whoever trains may divide by those of a whole step, however it
is split over machines and micro batches.

Shapes: D conversations, T tokens of all, d model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from blm.model.errors import UserError
from blm.model.families import family_of
from blm.model.grounding import GroundingHead
from blm.model.packed_attention import use_packed_attention
from blm.model.packing import PackedBatch, Stack
from blm.model.vision import TOKEN_PX, encode_images

HEAD_CHUNK = 4096
"""Answer tokens whose logits are alive at once: at 152,000 words each thousand of them takes 0.6 GB in float32."""


def encode_stacks(visual: nn.Module, stacks: Sequence[Stack]) -> list[Tensor]:
    """Tokens [N, tokens, d] of each stack of a Qwen2.5-VL's pictures."""
    return [encode_images(visual, stack.pixels) for stack in stacks]


def forward_hidden(model: Any, batch: PackedBatch) -> tuple[Tensor, list[Tensor]]:
    """Final hidden states [1, T, d], and the image tokens [N, tokens, d] of each stack of pictures (none for families
    whose pictures go through their own forward). The language model must attend by `use_packed_attention`.
    """
    family = family_of(model.config)
    options = {"documents": batch.documents, "use_cache": False}
    if not family.fast_vision:
        positions = batch.positions if len(batch.positions) > 1 else batch.positions[0]
        inputs = {name: _as(model, tensor) for name, tensor in batch.inputs.items()}
        output = model.model(input_ids=batch.input_ids, position_ids=positions, **inputs, **options)
        return output.last_hidden_state, []
    visual = model.get_submodule(family.vision)
    embeddings = model.get_input_embeddings()(batch.input_ids)
    images, videos = encode_stacks(visual, batch.images), encode_stacks(visual, batch.videos)
    for stacks, tokens, token_id in (
        (batch.images, images, model.config.image_token_id),
        (batch.videos, videos, model.config.video_token_id),
    ):
        if tokens:
            here = (batch.input_ids == token_id).unsqueeze(-1)
            embeddings = embeddings.masked_scatter(here, _in_order(stacks, tokens).to(embeddings.dtype))
    language = model.get_submodule(family.language)
    output = language(inputs_embeds=embeddings, position_ids=batch.positions, **options)
    return output.last_hidden_state, images


class SftModule(nn.Module):
    """MLLM and grounding head with both losses in one forward, as data-parallel wrappers want it."""

    def __init__(self, mllm: nn.Module, head: GroundingHead | None) -> None:
        """UserError for a head on a family whose pictures go through its own forward."""
        super().__init__()
        self.mllm = mllm
        self.head = head
        family = family_of(mllm.config)
        if head is not None and not family.fast_vision:
            raise UserError(f"{mllm.config.model_type} models have no grounding head; set grounding_weight to 0")
        use_packed_attention(mllm.get_submodule(family.language))

    def forward(self, batch: PackedBatch, vision_only: bool = False) -> tuple[Tensor, Tensor]:
        """(cross entropy summed over answer tokens, grounding loss summed over pictures whose points are known).

        With `vision_only` the language model does not run.
        """
        if vision_only:
            visual = self.mllm.get_submodule(family_of(self.mllm.config).vision)
            grounding = self._grounding(batch, encode_stacks(visual, batch.images))
            return grounding.new_zeros(()), grounding
        hidden, image_tokens = forward_hidden(self.mllm, batch)
        language = _nll(self.mllm, hidden[0, batch.answers], batch.targets).sum()
        return language, self._grounding(batch, image_tokens)

    def _grounding(self, batch: PackedBatch, image_tokens: Sequence[Tensor]) -> Tensor:
        total = torch.zeros((), device=batch.input_ids.device)
        if self.head is None:
            return total
        for stack, tokens in zip(batch.images, image_tokens, strict=True):
            points = batch.points_px[list(stack.places)]
            total = total + self.head.loss(tokens, points, stack.pixels.shape[-2] // TOKEN_PX)
        return total


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerScores:
    """How well each of D conversations is answered, given the true tokens before each answer token."""

    correct: Tensor
    """bool [D]: is every answer token the most likely one?"""
    nll: Tensor
    """float32 [D]: negative log likelihood (nats) summed over answer tokens."""
    tokens: Tensor
    """int64 [D]: answer tokens."""


@torch.no_grad()
def score_answers(model: Any, batch: PackedBatch) -> AnswerScores:
    """Run the model once over a packed batch and compare."""
    hidden, _ = forward_hidden(model, batch)
    targets = batch.targets
    head = model.get_output_embeddings()
    wrong, nll = [targets.new_zeros(0, dtype=torch.float32)], [targets.new_zeros(0, dtype=torch.float32)]
    for states, target in zip(hidden[0, batch.answers].split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True):
        logits = head(states).float()
        wrong.append((logits.argmax(dim=-1) != target).float())
        nll.append(F.cross_entropy(logits, target, reduction="none"))
    return AnswerScores(
        correct=_per_document(batch, torch.cat(wrong)) == 0,
        nll=_per_document(batch, torch.cat(nll)),
        tokens=_per_document(batch, torch.ones_like(targets)),
    )


def _as(model: Any, tensor: Tensor) -> Tensor:
    return tensor.to(model.dtype) if tensor.is_floating_point() else tensor


def _in_order(stacks: Sequence[Stack], tokens: Sequence[Tensor]) -> Tensor:
    """Tokens [all, d] of the stacks' pictures in the order of the text."""
    if len(stacks) == 1:
        return tokens[0].flatten(0, 1)
    pictures: dict[int, Tensor] = {}
    for stack, encoded in zip(stacks, tokens, strict=True):
        pictures.update(zip(stack.places, encoded.unbind(), strict=True))
    return torch.cat([pictures[place] for place in sorted(pictures)])


def _nll(model: Any, states: Tensor, targets: Tensor) -> Tensor:
    """float32 [N] of answer tokens [N] from the states [N, d] before them: the head never runs over prompts.

    Many of them go through the head in parts whose logits are made again for the gradient.
    """
    head = model.get_output_embeddings()

    def part(states: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(head(states).float(), targets, reduction="none")

    if len(states) <= HEAD_CHUNK:
        return part(states, targets)
    chunks = zip(states.split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True)
    return torch.cat([checkpoint(part, *chunk, use_reentrant=False) for chunk in chunks])


def _per_document(batch: PackedBatch, values: Tensor) -> Tensor:
    """Sums [D] of values [N] of the answer tokens."""
    document = torch.bucketize(batch.answers, batch.documents.cumulative[1:].long(), right=True)
    sums = values.new_zeros(len(batch.documents.lengths))
    return sums.index_add(0, document, values)[: batch.rows]
