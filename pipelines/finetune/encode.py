"""Corpora as training data for Stage I: tokenised once by Ray Data, memory-mapped by every training worker.

Tokenising, placing rotary positions and projecting true positions into the pictures happen here, outside the training
processes. Pictures stay encoded on disk; `row_store` decodes them when a step needs them.
"""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from PIL import Image

from blm.actors.sim.cameras import CAMERAS, FIXED_CAMERAS, project
from blm.model.chat_encoder import ChatEncoder, VideoShape
from blm.model.errors import UserError
from blm.model.packing import N_POINTS, EncodedRow, count_targets
from blm.pipelines.datasets.chat import ChatRow, Video, chat_files, read_chat
from blm.pipelines.datasets.parquet import temporary_path
from blm.pipelines.finetune.row_store import SCHEMA

ROWS_PER_BATCH = 256  # rows that are in memory at once while a file is written


def encoder_loader(source: str) -> Callable[[], ChatEncoder]:
    """A function that loads the model's chat encoder once in each process that calls it."""
    loaded: list[ChatEncoder] = []

    def load() -> ChatEncoder:
        if not loaded:
            loaded.append(ChatEncoder.load(source))
        return loaded[0]

    return load


def encode_corpus(
    corpus: Path,
    out: Path,
    load_encoder: Callable[[], ChatEncoder],
    *,
    cameras: Sequence[str],
    max_length: int,
    blocks: int,
) -> list[Path]:
    """Tokenise every chat file of `corpus` into an Arrow file of `out`, in parallel; files already there are kept.

    load_encoder: called in each worker. Raises UserError for damaged files and for conversations over `max_length`.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = chat_files(corpus)
    targets = [out / f"{file.stem}.arrow" for file in files]
    missing = [{"source": str(f), "target": str(t)} for f, t in zip(files, targets, strict=True) if not t.is_file()]

    def encode(item: dict[str, str]) -> dict[str, int]:
        rows = encode_file(
            Path(item["source"]), Path(item["target"]), load_encoder(), cameras=cameras, max_length=max_length
        )
        return {"rows": rows}

    if missing:
        ray.data.from_items(missing, override_num_blocks=min(blocks, len(missing))).map(encode).sum("rows")
    return targets


def encode_file(source: Path, target: Path, encoder: ChatEncoder, *, cameras: Sequence[str], max_length: int) -> int:
    """Tokenise one chat file into one Arrow file, whole or not at all. Returns its rows."""
    temporary, rows = temporary_path(target), read_chat(source)
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for first in range(0, len(rows), ROWS_PER_BATCH):
                part = rows[first : first + ROWS_PER_BATCH]
                records = [_encode_row(row, encoder, cameras, max_length) for row in part]
                writer.write_table(pa.Table.from_pylist(records, schema=SCHEMA))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return len(rows)


def _encode_row(row: ChatRow, encoder: ChatEncoder, cameras: Sequence[str], max_length: int) -> dict[str, Any]:
    sizes = [_size(image) for image in row.images]
    shapes = [_shape(video) for video in row.videos]
    chat = encoder.encode(row.messages, sizes, shapes)
    if len(chat.input_ids) > max_length:
        raise UserError(
            f"conversation {row.id} has {len(chat.input_ids)} tokens; shorten it or raise stage1.max_length"
            f" ({max_length})"
        )
    points_px = _points_px(row, sizes, cameras)
    tokenised = EncodedRow(input_ids=chat.input_ids, labels=chat.labels, positions=chat.positions, points_px=points_px)
    answers, known = count_targets(tokenised)
    return {
        "id": row.id,
        "source": row.source,
        "category": row.category,
        "input_ids": chat.input_ids,
        "labels": chat.labels,
        "positions": chat.positions.ravel(),
        "images": list(row.images),
        "videos": [{"frames": list(video.frames), "fps": video.fps} for video in row.videos],
        "points_px": points_px.ravel(),
        "tokens": len(chat.input_ids),
        "answers": answers,
        "known": known,
    }


def _size(image: bytes) -> tuple[int, int]:
    """(height, width) of an encoded picture, from its header alone."""
    width, height = Image.open(io.BytesIO(image)).size
    return height, width


def _shape(video: Video) -> VideoShape:
    height, width = _size(video.frames[0])
    return VideoShape(frames=len(video.frames), height=height, width=width, fps=video.fps)


def _points_px(row: ChatRow, sizes: Sequence[tuple[int, int]], cameras: Sequence[str]) -> np.ndarray:
    """Where gripper, object and goal are in each picture, float32 [M, 3, 2].

    NaN without simulator truth, and in pictures of a camera that moves with the hand.
    """
    pixels = np.full((len(sizes), N_POINTS, 2), np.nan, dtype=np.float32)
    known = row.meta.get("object_positions")
    if known is None or len(sizes) != len(cameras):
        return pixels
    points_m = np.asarray(known).reshape(N_POINTS, 3)
    for picture, (camera, (_, width)) in enumerate(zip(cameras, sizes, strict=True)):
        if camera in FIXED_CAMERAS:
            pixels[picture], _ = project(points_m, CAMERAS[camera], width)
    return pixels


def training_texts(corpus: Path) -> list[str]:
    """Every message text of a corpus, for the tokenizer."""
    return [message["text"] for file in chat_files(corpus) for row in read_chat(file) for message in row.messages]
