"""One piece of an intent cache: the states of a few episodes' frames, in three Arrow files.

    <name>.pictures.arrow   a row for every distinct observation; a column for every augmentation of it
    <name>.texts.arrow      a row for every distinct (observation, instruction); a column for every augmentation
    <name>.frames.arrow     a row for every frame, in dataset order: which of those rows are its own, by phrasing

So what several frames share, and what several phrasings share, is there once; and columns of variants that nobody asks
for are never read from disk.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from blm.model.errors import UserError
from blm.pipelines.datasets.parquet import temporary_path
from blm.pipelines.intent.store import ITEM_TYPES, Packed, Store, column, values_of

PARTS = ("pictures", "texts", "frames")


def part_path(folder: Path, name: str, part: str) -> Path:
    """File of one of PARTS of the shard called `name`."""
    return folder / f"{name}.{part}.arrow"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A shard, memory-mapped or about to be written."""

    pictures: tuple[Packed, ...]
    """Of each augmentation (0: none): [n, P, d] of every distinct observation."""
    texts: tuple[Packed, ...]
    """Of each augmentation: [m, T, d] of every distinct (observation, instruction), zeros where padded."""
    lengths: np.ndarray
    """int32 [m]: real tokens of each text."""
    picture_of: np.ndarray
    """int32 [frames]: row of `pictures`."""
    text_of: np.ndarray
    """int32 [frames, phrasings]: row of `texts`."""


def write_shard(folder: Path, name: str, shard: Shard) -> None:
    """Write the three files, each complete or not at all; `frames` last."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(part_path(folder, name, "pictures"), _columns(shard.pictures))
    _write(part_path(folder, name, "texts"), {"length": pa.array(shard.lengths, pa.int32()), **_columns(shard.texts)})
    texts = {f"text_{i}": pa.array(shard.text_of[:, i], pa.int32()) for i in range(shard.text_of.shape[1])}
    _write(part_path(folder, name, "frames"), {"picture": pa.array(shard.picture_of, pa.int32()), **texts})


def open_shard(folder: Path, name: str, *, frames: int, picture_tokens: int, width: int, store: Store) -> Shard:
    """Memory-map a shard. UserError naming the file if one is missing, damaged, or does not hold this many frames."""
    pictures, texts, index = (_open(part_path(folder, name, part)) for part in PARTS)
    if index.num_rows != frames:
        path = part_path(folder, name, "frames")
        raise UserError(f"intent cache shard {path} has {index.num_rows} frames, not {frames}; delete {folder}")
    values_a_row = texts.schema.field("view_0").type.byte_width // ITEM_TYPES[store].itemsize
    columns = [index[column_name].to_numpy() for column_name in index.column_names]
    shard = Shard(
        pictures=_packed(pictures, (picture_tokens, width), store),
        texts=_packed(texts, (values_a_row // width, width), store),
        lengths=texts["length"].to_numpy(),
        picture_of=columns[0],
        text_of=np.stack(columns[1:], axis=1),
    )
    if shard.picture_of.max() >= pictures.num_rows or shard.text_of.max() >= texts.num_rows:
        raise UserError(f"intent cache shard {folder / name} points beyond its rows; delete {folder}")
    return shard


def _columns(views: Sequence[Packed]) -> dict[str, pa.Array]:
    columns = {}
    for number, packed in enumerate(views):
        columns[f"view_{number}"] = column(packed.values)
        if packed.scales is not None:
            columns[f"scale_{number}"] = column(packed.scales)
    return columns


def _packed(table: pa.Table, shape: tuple[int, int], store: Store) -> tuple[Packed, ...]:
    packed = []
    for number in range(sum(name.startswith("view_") for name in table.column_names)):
        values = values_of(table, f"view_{number}", ITEM_TYPES[store], shape)
        scales = None
        if store == "int8":
            scales = values_of(table, f"scale_{number}", np.dtype(np.float32), shape[:1])
        packed.append(Packed(values=values, scales=scales))
    return tuple(packed)


def _write(path: Path, columns: Mapping[str, pa.Array]) -> None:
    table = pa.table(dict(columns))
    temporary = temporary_path(path)
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _open(path: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"intent cache shard {path} cannot be read ({reason}); delete {path.parent}") from error
