"""Answers in the model's own words: greedy generation in batches, and how an answer is read.

Hugging Face's own processor and `generate`, so that what is scored is what anybody gets who loads the folder.
"""

import io
import math
import re
from pathlib import Path
from typing import Any

from PIL import Image

from blm.model.prompts import LOC_BINS, LOC_TOKENS, chat_content, loc_value_m
from blm.pipelines.datasets.chat import ChatRow, read_chat

BLANK_RGB = (122, 116, 104)
"""The grey that becomes zero when the model normalises a picture: nothing is in it."""

Position = tuple[int, int, int]
"""A place as position words: a bin along x, y and z."""

_WORD = re.compile(r"<loc_(\d+)>")


def normalise(text: str) -> str:
    """An answer without the white space that nobody sees."""
    return " ".join(text.split())


def read_position(text: str) -> Position | None:
    """The place that an answer names by three position words and nothing else, or None."""
    bins = [int(number) for number in _WORD.findall(text)]
    if len(bins) != 3 or _WORD.sub("", text).strip() or max(bins) >= LOC_BINS:
        return None
    return bins[0], bins[1], bins[2]


def position_error(truth: Position, answer: Position) -> tuple[float, float]:
    """(mean distance in bins along an axis, distance in metres) of two places."""
    bins = sum(abs(a - b) for a, b in zip(truth, answer, strict=True)) / len(truth)
    return bins, math.dist(_metres(truth), _metres(answer))


def _metres(position: Position) -> list[float]:
    return [loc_value_m(axis, LOC_TOKENS[index]) for axis, index in enumerate(position)]


class AnswerWorker:
    """Ray Data worker: answers a batch of questions of one corpus file."""

    def __init__(self, *, model: str, device: str, dtype: str, max_new_tokens: int) -> None:
        import torch

        from blm.model.backbone import load_backbone

        if device == "cpu":
            torch.set_num_threads(1)
        self._model, self._processor = load_backbone(model, device=device, dtype=getattr(torch, dtype))
        self._device = device
        self._max_new_tokens = max_new_tokens
        self._file: tuple[str, list[ChatRow]] | None = None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """item: `file`, `rows` in it, their `ids`, and whether pictures are `blank`. Returns ids, blank and answers."""
        if self._file is None or self._file[0] != item["file"]:
            self._file = (item["file"], read_chat(Path(item["file"])))
        rows = [self._file[1][int(row)] for row in item["rows"]]
        answers = self.answer(rows, blank=bool(item["blank"]))
        return {"ids": list(item["ids"]), "blank": bool(item["blank"]), "answers": answers}

    def answer(self, rows: list[ChatRow], *, blank: bool = False) -> list[str]:
        """What the model says where each conversation ends with its answer; cut off after `max_new_tokens`."""
        import torch

        processor = self._processor
        prompts = [
            processor.apply_chat_template(chat_content(row.messages[:-1]), tokenize=False, add_generation_prompt=True)
            for row in rows
        ]
        pictures = [_picture(data, blank=blank) for row in rows for data in row.images]
        inputs = processor(
            text=prompts, images=pictures or None, padding=True, padding_side="left", return_tensors="pt"
        ).to(self._device)
        stop = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
        with torch.inference_mode():
            # Published models bring sampling settings along; greedy generation needs none of them.
            output = self._model.generate(
                **inputs,
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=stop,
                pad_token_id=processor.tokenizer.pad_token_id,
            )
        said = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._text(tokens, stop) for tokens in said]

    def _text(self, tokens: list[int], stop: int) -> str:
        """Up to the end of the turn. Without one the answer is not finished, and says so."""
        if stop not in tokens:
            return normalise(self._processor.tokenizer.decode(tokens)) + " ..."
        return normalise(self._processor.tokenizer.decode(tokens[: tokens.index(stop)]))


def _picture(data: bytes, *, blank: bool) -> Image.Image:
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return Image.new("RGB", picture.size, BLANK_RGB) if blank else picture
