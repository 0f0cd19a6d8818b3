"""Answers to rows of a corpus, in the model's own words: what the stage `evaluate` asks its held-out questions with."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from blm.pipelines.datasets.chat import ChatRow, read_chat
from blm.pipelines.digital.answers import BLANK_RGB, normalise
from blm.pipelines.digital.engine import Ask
from blm.pipelines.digital.engine_transformers import TransformersEngine
from blm.pipelines.digital.item import Decoding
from blm.pipelines.digital.media import Clip, Shown, clip_of


class AnswerWorker:
    """Ray Data worker: answers a batch of questions of one corpus file, greedily."""

    def __init__(self, *, model: str, device: str, dtype: str, max_new_tokens: int) -> None:
        self._engine = TransformersEngine(model=model, device=device, dtype=dtype)
        self._decoding = Decoding(max_new_tokens=max_new_tokens)
        self._file: tuple[str, list[ChatRow]] | None = None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """item: `file`, `rows` in it, their `ids`, and whether pictures are `blank`. Returns ids, blank and answers."""
        if self._file is None or self._file[0] != item["file"]:
            self._file = (item["file"], read_chat(Path(item["file"])))
        rows = [self._file[1][int(row)] for row in item["rows"]]
        answers = self.answer(rows, blank=bool(item["blank"]))
        return {"ids": list(item["ids"]), "blank": bool(item["blank"]), "answers": answers}

    def answer(self, rows: list[ChatRow], *, blank: bool = False) -> list[str]:
        """What the model says where each conversation ends with its answer. An answer cut off after `max_new_tokens`,
        and none at all to a conversation too long for the model, end with `...`.
        """
        asks = [
            Ask(messages=row.messages[:-1], media=_media(row, blank=blank), decoding=self._decoding) for row in rows
        ]
        replies = self._engine.answer(asks)
        return [normalise(r.text) if r.finished and not r.error else f"{normalise(r.text)} ..." for r in replies]


def _media(row: ChatRow, *, blank: bool) -> list[Shown]:
    """Pictures and videos of a row; instead of them, where `blank`, grey of the same size."""
    pictures = [_picture(data, blank=blank) for data in row.images]
    videos = [[_picture(data, blank=blank) for data in video.frames] for video in row.videos]
    clips: list[Clip] = [clip_of(frames, video.fps) for frames, video in zip(videos, row.videos, strict=True)]
    return [*pictures, *clips]


def _picture(data: bytes, *, blank: bool) -> Image.Image:
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return Image.new("RGB", picture.size, BLANK_RGB) if blank else picture
