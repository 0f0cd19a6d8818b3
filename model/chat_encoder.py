"""Conversations into tokens: the prompt engine of every backbone.

Text goes through the folder's own chat template, pictures and videos through the family's own expansion into
placeholder words, so that what comes out equals transformers' processor token for token; the same code trains,
extracts intents and evaluates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig

from blm.model.errors import UserError
from blm.model.families import empty_model, family_of
from blm.model.media import GRIDS, Block, MediaProcessor, VideoShape
from blm.model.packing import RowMedia
from blm.model.prompts import IGNORE_INDEX, IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, Message, chat_content
from blm.model.rope import multimodal_positions

__all__ = ["ChatEncoder", "EncodedChat", "VideoShape"]
_PROBE = "\N{BLACK SQUARE}probe\N{BLACK SQUARE}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedChat:
    """A conversation as tokens."""

    input_ids: np.ndarray
    """int32 [L]."""
    labels: np.ndarray
    """int32 [L]: `input_ids` where the loss counts (assistant text and its end of turn), IGNORE_INDEX elsewhere."""
    positions: np.ndarray
    """int32 [P, L]: P is 3 for multimodal rotary positions, else 1."""


class ChatEncoder:
    """Encodes conversations for one model."""

    def __init__(self, processor: Any, config: PretrainedConfig) -> None:
        """processor and config: the model's, as transformers loads them. UserError without a chat template."""
        if getattr(processor, "chat_template", None) is None:
            raise UserError(f"this {config.model_type} model has no chat template; take an instruction-tuned one")
        self.processor = processor
        self.config = config
        self.family = family_of(config)
        self.tokenizer = processor.tokenizer
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        self.pad_token_id: int = next(i for i in ids if i is not None)
        self._media = MediaProcessor(processor, config, self.family)
        self._end = self._end_of_turn()
        self._rope_model: Any = None

    @classmethod
    def load(cls, source: str | Path) -> "ChatEncoder":
        """Of a local folder or a published model. UserError when it is missing."""
        from blm.model.backbone import load_config, load_processor

        config = load_config(source)
        return cls(load_processor(source), config)

    def encode(
        self,
        messages: Sequence[Message],
        images: Sequence[tuple[int, int]] = (),
        videos: Sequence[VideoShape] = (),
        *,
        generation_prompt: bool = False,
    ) -> EncodedChat:
        """Tokens of a conversation whose pictures have these (height, width) and whose videos these shapes.

        Equal to `processor.apply_chat_template(..., tokenize=True)`. UserError when placeholders and media do not
        match in number, or when a text holds one of the model's own placeholder words.
        """
        self._check(messages, len(images), len(videos))
        content = chat_content(messages)
        rendered = self._render(content, generation_prompt)
        answers = self._answers(messages, content, rendered)
        of_images = [self._media.image((h, w), alone=len(images) == 1) for h, w in images]
        of_videos = [self._media.video(shape) for shape in videos]
        text, places = self._expand(rendered, of_images, of_videos)
        tokens = self.tokenizer(
            text,
            add_special_tokens=not self._has_bos(rendered),
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        input_ids = np.array(tokens["input_ids"], dtype=np.int32)
        offsets = np.array(tokens["offset_mapping"]).reshape(-1, 2)
        kept = _inside(offsets, [_shifted(answer, places) for answer in answers])
        in_order = {"image": iter(of_images), "video": iter(of_videos)}
        return EncodedChat(
            input_ids=input_ids,
            labels=np.where(kept, input_ids, np.int32(IGNORE_INDEX)),
            positions=self._positions(input_ids, [next(in_order[place["type"]]) for place in places]),
        )

    def media(self, images: Sequence[np.ndarray] = (), videos: Sequence[tuple[np.ndarray, float]] = ()) -> RowMedia:
        """What the model's vision part wants of one conversation.

        images: uint8 [H, W, 3] each; videos: (uint8 [F, H, W, 3], frames a second) each, taken as they are.
        """
        return self._media.media(images, videos)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels that a still picture of this size has in `media`, for families with a batched
        vision path; the others' pictures keep no single size."""
        return self._media.resized(height, width)

    def _check(self, messages: Sequence[Message], images: int, videos: int) -> None:
        for placeholder, given in ((IMAGE_PLACEHOLDER, images), (VIDEO_PLACEHOLDER, videos)):
            named = sum(message["text"].count(placeholder) for message in messages)
            if named != given:
                what = placeholder.strip("<>")
                raise UserError(
                    f"conversation has {named} {placeholder} placeholders for {given} {what}s;"
                    f" give one placeholder {'an' if what == 'image' else 'a'} {what}"
                )
        if videos and not hasattr(self.processor, "video_token"):
            raise UserError(f"{self.config.model_type} models have no videos; leave them out or take another backbone")
        if images and videos and self.family.one_stream:
            raise UserError(f"{self.config.model_type} models take pictures or videos in a conversation, not both")

    def _render(self, content: list[dict[str, Any]], generation_prompt: bool) -> str:
        return self.processor.apply_chat_template(content, tokenize=False, add_generation_prompt=generation_prompt)

    def _has_bos(self, text: str) -> bool:
        bos = self.tokenizer.bos_token
        return bos is not None and text.startswith(bos)

    def _end_of_turn(self) -> str:
        """The marker that the template puts behind an assistant's text."""
        turns = [{"role": "user", "text": "."}, {"role": "assistant", "text": _PROBE}]
        return self._render(chat_content(turns), False).rpartition(_PROBE)[2].rstrip()

    def _expand(
        self, rendered: str, images: Sequence[Block], videos: Sequence[Block]
    ) -> tuple[str, list[dict[str, Any]]]:
        """The text with each placeholder word replaced, and what was replaced where."""
        for kind, blocks in (("image_token", images), ("video_token", videos)):
            word = getattr(self.processor, kind, None)
            if word is not None and rendered.count(word) != len(blocks):
                raise UserError(f"a text of the conversation holds the model's own word {word!r}; take it out")
        (text,), places = self.processor.get_text_with_replacements(
            [rendered], [block.text for block in images], [block.text for block in videos]
        )
        return text, places[0] if places else []

    def _answers(
        self, messages: Sequence[Message], content: list[dict[str, Any]], rendered: str
    ) -> list[tuple[int, int]]:
        """Characters (first, behind the last) of each assistant turn's text and end of turn."""
        found, cursor = [], 0
        for turn, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._render(content[:turn], True)
            told = rendered.startswith(prompt)  # else the template writes earlier turns in another way
            said = message["text"].strip()
            text = rendered.find(said, len(prompt) if told else cursor)
            if text < 0:
                raise UserError(f"the chat template does not repeat this answer as it is: {said!r}")
            cursor = text + len(said)
            end = rendered.find(self._end, cursor) if self._end else -1
            if end >= 0 and not rendered[cursor:end].strip():
                cursor = end + len(self._end)
            found.append((len(prompt) if told else text, cursor))
        return found

    def _positions(self, input_ids: np.ndarray, blocks: Sequence[Block]) -> np.ndarray:
        if self.family.positions == "sequence":
            return np.arange(len(input_ids), dtype=np.int32)[None]
        if self.family.positions == "model":
            return self._positions_of_model(input_ids, blocks)
        is_vision = np.isin(input_ids, [self.config.image_token_id, self.config.video_token_id])
        return multimodal_positions(is_vision, [grid for block in blocks for grid in block.grids])

    def _positions_of_model(self, input_ids: np.ndarray, blocks: Sequence[Block]) -> np.ndarray:
        if self._rope_model is None:
            self._rope_model = empty_model(self.config).model
        ids = torch.from_numpy(input_ids).long()[None]
        kinds = torch.tensor(self.processor.create_mm_token_type_ids(ids.tolist()))
        inputs = [block.inputs for block in blocks]
        grids = {n: torch.cat([i[n] for i in inputs if n in i]) for n in GRIDS if any(n in i for i in inputs)}
        positions, _ = self._rope_model.get_rope_index(ids, mm_token_type_ids=kinds, **grids)
        return positions[:, 0].numpy().astype(np.int32)


def _shifted(span: tuple[int, int], places: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Where characters stand once the placeholders before them are replaced."""
    before = [place for place in places if place["span"][1] <= span[0]]
    grown = sum(len(place["replacement"]) - len(place["text"]) for place in before)
    return span[0] + grown, span[1] + grown


def _inside(offsets: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """bool [L]: does the token lie wholly within one of the spans of characters?"""
    inside = np.zeros(len(offsets), dtype=bool)
    for start, end in spans:
        inside |= (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
    return inside
