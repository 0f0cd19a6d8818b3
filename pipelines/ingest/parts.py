"""What one piece of work leaves on disk: chat files of bounded size, sketches of their rows, refused records, counts.

    parts/ingest/<source>/00003-00.parquet     rows, a file after the other
    parts/ingest/<source>/00003.npz            sketches of all rows of the piece
    parts/ingest/<source>/00003.json           counts; written last, so a piece with counts is finished

The names depend on the place of a piece in its source, never on who did the work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq

from blm.cluster import depot
from blm.pipelines.datasets.chat import CHAT_SCHEMA, ChatRow, chat_table
from blm.pipelines.datasets.parquet import temporary_path
from blm.pipelines.ingest.arrays import write_arrays
from blm.pipelines.ingest.sketches import DETAIL, SIGNATURE, RowSketch, picture_arrays
from blm.pipelines.workspace import read_json, write_json

FILE_BYTES = 64 * 2**20
"""About the size of a chat file: whoever reads one holds it in memory as a whole."""
GROUP_BYTES = 8 * 2**20
"""Rows held back before they are written."""
GROUP_ROWS = 500
TEXT_COLUMNS = ("id", "source", "category", "meta", "messages.list.element.role", "messages.list.element.text")
MEDIA_COLUMNS = ("images.list.element", "videos.list.element.frames.list.element", "videos.list.element.fps")


class ChatFiles:
    """Writes rows to one chat file after the other; `rows` has the number of rows of each file."""

    def __init__(self, stem: Path) -> None:
        self.rows: list[int] = []
        self._stem = stem
        self._waiting: list[ChatRow] = []
        self._waiting_bytes = self._file_bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._temporary = stem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write_group()
            self._close_file()
        elif self._writer is not None:
            self._writer.close()
            self._temporary.unlink(missing_ok=True)

    def add(self, row: ChatRow) -> None:
        """Write one row, sooner or later. ValueError if it is not valid; then nothing is written of it."""
        self._waiting.append(row)
        self._waiting_bytes += row_bytes(row)
        if self._waiting_bytes >= GROUP_BYTES or len(self._waiting) >= GROUP_ROWS:
            self._write_group()
        if self._file_bytes >= FILE_BYTES:
            self._close_file()

    def _write_group(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            path = part_file(self._stem, len(self.rows))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = temporary_path(path)
            self._writer = chat_writer(self._temporary)
            self.rows.append(0)
        self._writer.write_table(chat_table(self._waiting))
        self.rows[-1] += len(self._waiting)
        self._file_bytes += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._temporary.rename(part_file(self._stem, len(self.rows) - 1))
        self._writer, self._file_bytes = None, 0


def chat_writer(path: Path) -> pq.ParquetWriter:
    """A writer of chat rows that spends no time on squeezing pictures, or on finding repeated and extreme ones."""
    compression = dict.fromkeys(TEXT_COLUMNS, "snappy") | dict.fromkeys(MEDIA_COLUMNS, "none")
    return pq.ParquetWriter(
        path, CHAT_SCHEMA, use_dictionary=["source", "category"], write_statistics=False, compression=compression
    )


def row_bytes(row: ChatRow) -> int:
    """About what a row takes up."""
    media = sum(map(len, row.images)) + sum(len(frame) for video in row.videos for frame in video.frames)
    return media + sum(len(message["text"]) for message in row.messages)


def part_file(stem: Path, number: int) -> Path:
    """The path of a piece's chat file."""
    return stem.with_name(f"{stem.name}-{number:02d}.parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowNotes:
    """What is decided about a row while its record is at hand."""

    sketch: RowSketch
    rule: int
    """0, or why it is a benchmark's: see `decontaminate.RULES`."""
    group: int
    """Rows of one group are held out together, 64 bits."""


def save_notes(path: Path, notes: Sequence[RowNotes]) -> None:
    """Write a piece's notes, a few hundred bytes a row."""
    sketches = [note.sketch for note in notes]
    arrays: dict[str, np.ndarray] = {
        "exact": np.array([sketch.exact for sketch in sketches], dtype=np.uint64).reshape(-1, 2),
        "signature": np.array([s.signature for s in sketches], dtype=np.uint32).reshape(-1, SIGNATURE),
        "shape": np.array([sketch.shape for sketch in sketches], dtype=np.uint64),
        "counts": np.array([len(sketch.pictures) for sketch in sketches], dtype=np.int64),
        "rule": np.array([note.rule for note in notes], dtype=np.uint8),
        "group": np.array([note.group for note in notes], dtype=np.uint64),
    }
    arrays |= picture_arrays([picture for sketch in sketches for picture in sketch.pictures])
    write_arrays(path, arrays)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A finished piece."""

    stem: Path
    """Its files' names begin so."""
    counts: dict[str, Any]
    """records, rejected by reason, rows of each file, images, videos, frames, bytes."""

    @property
    def rows(self) -> int:
        """Rows of all its files."""
        return sum(self.counts["rows"])


def finish(stem: Path, counts: dict[str, Any]) -> None:
    """Mark a piece as finished, once all its files are safe."""
    for number in range(len(counts.get("rows", ()))):
        depot.keep(part_file(stem, number))
    depot.keep(stem.with_suffix(".npz"))
    write_json(stem.with_suffix(".json"), counts)
    depot.keep(stem.with_suffix(".json"))


def is_finished(stem: Path) -> bool:
    """Whether a piece needs no more work."""
    return stem.with_suffix(".json").exists()


def load_part(stem: Path) -> Part:
    """A finished piece."""
    return Part(stem=stem, counts=read_json(stem.with_suffix(".json")))


NOTE_COLUMNS: dict[str, tuple[type, tuple[int, ...]]] = {
    "exact": (np.uint64, (2,)),
    "signature": (np.uint32, (SIGNATURE,)),
    "shape": (np.uint64, ()),
    "counts": (np.int64, ()),
    "rule": (np.uint8, ()),
    "group": (np.uint64, ()),
}
PICTURE_COLUMNS: dict[str, tuple[type, tuple[int, ...]]] = {
    "digest": (np.uint64, ()),
    "coarse": (np.uint64, ()),
    "detail": (np.uint8, (DETAIL,)),
}


def gather_notes(parts: Sequence[Part], folder: Path) -> dict[str, np.ndarray]:
    """The notes of all parts, one after the other, in files that are mapped into memory, not read."""
    n_rows = sum(part.rows for part in parts)
    n_pictures = sum(part.counts["images"] + part.counts["frames"] for part in parts)
    folder.mkdir(parents=True, exist_ok=True)
    gathered: dict[str, np.ndarray] = {}
    for columns, n in ((NOTE_COLUMNS, n_rows), (PICTURE_COLUMNS, n_pictures)):
        for name, (kind, tail) in columns.items():
            shape = (n, *tail)
            path = folder / f"{name}.npy"
            gathered[name] = (
                np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape) if n else np.zeros(shape, kind)
            )
    places = dict.fromkeys(gathered, 0)
    for part in parts:
        with np.load(part.stem.with_suffix(".npz")) as notes:
            for name, target in gathered.items():
                values = notes[name]
                target[places[name] : places[name] + len(values)] = values
                places[name] += len(values)
    return gathered
