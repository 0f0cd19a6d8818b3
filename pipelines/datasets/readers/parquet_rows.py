"""Parquet as the Hugging Face hub has it: row groups as pieces, rows as samples, pictures as structs of bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from blm.pipelines.datasets.parquet import open_parquet
from blm.pipelines.datasets.readers.json_files import Cut, Value
from blm.pipelines.datasets.readers.record import Fault

BATCH_BYTES = 16 * 2**20
"""About what is in memory at once of a row group: the hub has groups of gigabytes."""
MOST_ROWS = 256
"""Rows of a batch: what is kept once for many rows (a dictionary) takes its room when they become Python objects."""


def cut_row_groups(path: Path, size: int) -> list[Cut]:
    """Pieces of row groups of about `size` bytes: first group, group after the last, number of the first row. A file
    that cannot be read is one piece, which says so.
    """
    try:
        with open_parquet(path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            sizes = [(group.total_byte_size, group.num_rows) for group in groups]
    except Exception:  # as in read_rows
        return [(0, 1, 1)]
    cuts: list[Cut] = []
    start, first, held, rows = 0, 1, 0, 0
    for i, (n_bytes, n_rows) in enumerate(sizes):
        if held and held + n_bytes > size:
            cuts.append((start, i, first))
            start, first, held, rows = i, first + rows, 0, 0
        held += n_bytes
        rows += n_rows
    if start < len(sizes):
        cuts.append((start, len(sizes), first))
    return cuts


def read_rows(path: Path, cut: Cut) -> Iterator[Value]:
    """The rows of a piece as dictionaries, numbered from 1 within the file."""
    start, stop, number = cut
    try:
        with open_parquet(path) as file:
            groups = range(start, min(stop, file.num_row_groups))
            largest = max((_row_bytes(file, group) for group in groups), default=1)
            batch = max(1, min(MOST_ROWS, BATCH_BYTES // max(largest, 1)))
            for table in file.iter_batches(batch_size=batch, row_groups=list(groups), use_threads=False):
                for row in _samples(table):
                    yield number, row
                    number += 1
    except Exception as error:  # Arrow's own, and what Python makes of names and sizes that are noise
        yield number, Fault("table_damaged", f"{type(error).__name__}: {error}")


def _row_bytes(file: Any, group: int) -> int:
    metadata = file.metadata.row_group(group)
    return int(metadata.total_byte_size // max(metadata.num_rows, 1))


def _samples(table: pa.RecordBatch) -> Iterator[Any]:
    """Rows; one that holds what is no text where text should be is a Fault, and the others come."""
    try:
        yield from table.to_pylist()
    except (UnicodeDecodeError, pa.ArrowException, ValueError) as error:
        if table.num_rows == 1:
            reason = "invalid_utf8" if isinstance(error, UnicodeDecodeError) else "wrong_type"
            yield Fault(reason, str(error))
            return
        for i in range(table.num_rows):
            yield from _samples(table.slice(i, 1))


def first_row(path: Path) -> Any:
    """The first row, or None."""
    return next((row for _, row in read_rows(path, (0, 1, 1)) if isinstance(row, dict)), None)
