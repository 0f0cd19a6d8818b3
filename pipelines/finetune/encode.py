"""Corpora as training data for Stage I: tokenised once by Ray Data, memory-mapped by every training worker.

Tokenising, placing rotary positions and projecting true positions into the pictures happen here, outside the training
processes. Pictures stay encoded on disk; `row_store` decodes them when a step needs them.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from blm.actors.sim.cameras import CAMERAS, FIXED_CAMERAS, project
from blm.model.chat_encoder import ChatEncoder, VideoShape
from blm.model.errors import UserError
from blm.model.packing import N_POINTS, EncodedRow, count_targets
from blm.pipelines.datasets.chat import ChatRow, Video, chat_files, read_chat
from blm.pipelines.datasets.items import map_items
from blm.pipelines.datasets.parquet import temporary_path
from blm.pipelines.finetune.row_store import SCHEMA

ROWS_PER_BATCH = 256  # rows that are in memory at once while a file is written


class EncodeWorker:
    """Tokenises chat files, one an item {"source", "target"}."""

    def __init__(self, model: str, cameras: Sequence[str], max_length: int) -> None:
        """model: folder or hub name, whose chat encoder is loaded."""
        self._encoder, self._cameras, self._max_length = ChatEncoder.load(model), tuple(cameras), max_length

    def __call__(self, item: dict[str, str]) -> dict[str, int]:
        """Write the target; returns its number of rows."""
        source, target = Path(item["source"]), Path(item["target"])
        rows = encode_file(source, target, self._encoder, cameras=self._cameras, max_length=self._max_length)
        return {"rows": rows}


def encode_corpora(
    corpora: Path, out: Path, model: str, *, cameras: Sequence[str], max_length: int, workers: int
) -> dict[str, list[Path]]:
    """Tokenise every chat file of `corpora/train` and `corpora/test` into an Arrow file of the same folder of `out`, in
    parallel; files already there are kept. Returns them by split.

    model: folder or hub name; its encoder is loaded in each worker. Both splits are one call of Ray Data, because what
    starting one costs is mostly that loading. UserError for damaged files and for conversations over `max_length`.
    """
    targets: dict[str, list[Path]] = {}
    missing: list[dict[str, str]] = []
    for split in ("train", "test"):
        (out / split).mkdir(parents=True, exist_ok=True)
        files = chat_files(corpora / split)
        targets[split] = [out / split / f"{file.stem}.arrow" for file in files]
        pairs = zip(files, targets[split], strict=True)
        missing += [{"source": str(f), "target": str(t)} for f, t in pairs if not t.is_file()]
    arguments = {"model": model, "cameras": tuple(cameras), "max_length": max_length}
    encoding = map_items(
        missing,
        EncodeWorker,
        arguments=arguments,
        workers=workers,
        light=True,
        reads=("source", "model"),
        writes=("target",),
    )
    for _ in encoding:
        pass
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
