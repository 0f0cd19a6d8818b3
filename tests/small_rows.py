"""Encoded rows of the small corpus, in memory, and what asks a model about them."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blm.model.chat_encoder import ChatEncoder
from blm.model.families import parts_of
from blm.model.packed_attention import use_packed_attention
from blm.model.packing import EncodedRow, pack
from blm.pipelines.datasets.chat import ChatRow
from blm.pipelines.finetune.heldout import Score, scorer


def encode(row: ChatRow, encoder: ChatEncoder) -> EncodedRow:
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in row.images]
    chat = encoder.encode(row.messages, [picture.shape[:2] for picture in pictures])
    return EncodedRow(
        input_ids=chat.input_ids,
        labels=chat.labels,
        positions=chat.positions,
        media=encoder.media(pictures),
        points_px=np.full((len(pictures), 3, 2), np.nan, np.float32),
    )


class SmallRows:
    """Rows by number, as the training loop's store has them."""

    def __init__(self, rows: Sequence[ChatRow], encoder: ChatEncoder) -> None:
        self._rows = [encode(row, encoder) for row in rows]
        self.ids = [row.id for row in rows]
        self.lengths = np.array([len(row.input_ids) for row in self._rows])

    def __getitem__(self, index: int) -> EncodedRow:
        return self._rows[index]


def load_scorer(folder: Path) -> Score:
    """What asks the model of a folder."""
    from blm.model.backbone import load_backbone

    model, processor = load_backbone(str(folder))
    model.eval()
    use_packed_attention(parts_of(model).language)
    pad = processor.tokenizer.pad_token_id
    score = scorer(model, lambda rows: pack(rows, pad_token_id=pad))

    def without_gradients(rows: Sequence[EncodedRow]):
        with torch.no_grad():
            return score(rows)

    return without_gradients
