"""Tokenised conversations for a training worker: memory-mapped, decoded when wanted, and forgotten when they are many.

Token counts of all rows are at hand without touching the rows, so that every worker can plan every step. Decoded rows
are kept as long as they fit into a given number of bytes, the least recently used leaving first.
"""

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from blm.model.chat_encoder import ChatEncoder
from blm.model.errors import UserError
from blm.model.packing import N_POINTS, EncodedRow

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("category", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("positions", pa.list_(pa.int32())),
        ("images", pa.list_(pa.binary())),
        ("videos", pa.list_(pa.struct([("frames", pa.list_(pa.binary())), ("fps", pa.float32())]))),
        ("points_px", pa.list_(pa.float32())),
        ("tokens", pa.int32()),
        ("answers", pa.int32()),
        ("known", pa.int32()),
    ]
)
"""One row of an encoded corpus. `tokens`, `answers` (tokens that carry loss) and `known` (pictures with true points)
are what planning a step needs of a row."""


class RowStore:
    """Tokenised rows of several Arrow files, as one sequence of `EncodedRow`."""

    def __init__(self, files: Sequence[Path], encoder: ChatEncoder, *, cache_bytes: int = 2 << 30) -> None:
        """Memory-map `files`. UserError naming a file that cannot be read.

        cache_bytes: decoded rows are kept up to this size. 0 keeps none.
        """
        table = pa.concat_tables([_open(file) for file in files])
        self._table = table
        self._batches = table.to_batches()  # a row is found in its batch; slicing the table would search all of them
        self._ends = np.cumsum([batch.num_rows for batch in self._batches])
        self._encoder = encoder
        self._cache: OrderedDict[int, tuple[EncodedRow, int]] = OrderedDict()
        self._cache_bytes, self.cached_bytes = cache_bytes, 0
        self._lock = threading.Lock()
        sources = table["source"].combine_chunks().dictionary_encode()
        names = sources.dictionary.to_pylist()
        self.sources: list[str] = [names[i] for i in sources.indices.to_pylist()]
        self.lengths: np.ndarray = table["tokens"].to_numpy()
        """int32 [rows]: tokens."""
        self.answers: np.ndarray = table["answers"].to_numpy()
        """int32 [rows]: tokens that carry loss."""
        self.known: np.ndarray = table["known"].to_numpy()
        """int32 [rows]: pictures whose true points are known."""
        media = pc.add(pc.list_value_length(table["images"]), pc.list_value_length(table["videos"]))
        self.has_media: np.ndarray = media.to_numpy() > 0
        """bool [rows]: has the row a picture or a video?"""

    @property
    def ids(self) -> list[str]:
        """Of all rows. Made at each call: a large corpus has many, and nobody needs them for long."""
        return self._table["id"].to_pylist()

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> EncodedRow:
        """Row `index`, decoded. Safe to call from several threads."""
        with self._lock:
            if (kept := self._cache.get(index)) is not None:
                self._cache.move_to_end(index)
                return kept[0]
        row = self._decode(index)
        self._keep(index, row)
        return row

    def _keep(self, index: int, row: EncodedRow) -> None:
        size = n_bytes(row)
        with self._lock:
            if index in self._cache or size > self._cache_bytes:
                return
            self._cache[index] = (row, size)
            self.cached_bytes += size
            while self.cached_bytes > self._cache_bytes:
                _, (_, freed) = self._cache.popitem(last=False)
                self.cached_bytes -= freed

    def _decode(self, index: int) -> EncodedRow:
        number = int(np.searchsorted(self._ends, index, side="right"))
        batch = self._batches[number]
        record = batch.slice(index - int(self._ends[number]) + batch.num_rows, 1)
        ids, labels, positions, points_px = (
            record[name].flatten().to_numpy() for name in ("input_ids", "labels", "positions", "points_px")
        )
        images = [decode_picture(data.as_buffer()) for data in record["images"][0]]
        videos = [
            (np.stack([decode_picture(frame.as_buffer()) for frame in video["frames"]]), video["fps"].as_py())
            for video in record["videos"][0]
        ]
        media = self._encoder.media(images, videos)
        return EncodedRow(
            input_ids=ids,
            labels=labels,
            positions=positions.reshape(-1, len(ids)),
            media=media,
            points_px=_moved(points_px.reshape(-1, N_POINTS, 2), images, media.images),
        )


def _moved(points_px: np.ndarray, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> np.ndarray:
    """Points [M, 3, 2] of pictures that may have been resized to whole tokens, where they are afterwards."""
    if not len(after):
        return points_px
    sides = [
        [b / a for a, b in zip(old.shape[1::-1], new.shape[1::-1], strict=True)]
        for old, new in zip(before, after, strict=True)
    ]
    return points_px * np.array(sides, dtype=np.float32)[:, None]


def _open(file: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} cannot be read ({error}); delete the stage's folder and run it again") from error


def decode_picture(data: Any) -> np.ndarray:
    """An encoded picture (anything with the buffer interface) as uint8 [H, W, 3]."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def n_bytes(value: Any) -> int:
    """Bytes of all arrays and tensors inside dataclasses, sequences and mappings."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if is_dataclass(value):
        return sum(n_bytes(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, dict):
        return sum(n_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(n_bytes(item) for item in value)
    return 0
