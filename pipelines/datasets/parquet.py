"""Reading and writing Parquet files so that a bad input names itself and a killed writer leaves nothing half done."""

import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from blm.model.errors import UserError

TEMPORARY_PREFIX = ".tmp-"
"""Names of unfinished files and folders begin so; none of them ends in `.parquet`, so a glob never meets one."""


def temporary_path(path: Path) -> Path:
    """A name beside `path`, on the same file system, that no other writer uses."""
    return path.with_name(f"{TEMPORARY_PREFIX}{path.stem}-{uuid.uuid4().hex[:8]}")


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet file, or some of its columns. UserError naming the file if it is absent, damaged or lacks a
    column.
    """
    with open_parquet(path) as file:
        missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
        if missing:
            raise UserError(f"{path} has no column {', '.join(missing)}; it holds {', '.join(file.schema_arrow.names)}")
        try:
            return file.read(columns=None if columns is None else list(columns))
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error


def open_parquet(path: str | Path, *, memory_map: bool = True) -> pq.ParquetFile:
    """A Parquet file opened for reading parts of it. UserError naming the file if it is absent or damaged.

    memory_map: not for a file that stays open for long; one that is cut short meanwhile would end the process.
    """
    try:
        return pq.ParquetFile(path, memory_map=memory_map)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def row_groups_with(file: pq.ParquetFile, column: str, value: int) -> list[int]:
    """Row groups in which a column of integers may hold a value, by the file's own statistics; all, without them."""
    metadata = file.metadata
    place = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}[column]
    found = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(place).statistics
        if statistics is None or not statistics.has_min_max or statistics.min <= value <= statistics.max:
            found.append(group)
    return found


def _unreadable(path: str | Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0]
    return UserError(
        f"{path} is not a readable Parquet file ({reason}); delete it and run the stage that made it again"
    )


def write_table(path: Path, table: pa.Table) -> None:
    """Write one Parquet file under a temporary name, then rename it: `path` exists only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        pq.write_table(table, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files a killed writer left in `folder`. Call only where no other writer is at work."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_file():
            path.unlink()


def concatenate(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Tables of one schema, one after the other; an empty table of that schema if there are none."""
    return pa.concat_tables([schema.empty_table(), *tables])
