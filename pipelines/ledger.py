"""Results one by one in a JSON Lines file that a kill at any moment leaves usable.

Lines are appended and forced to disk as results come. A kill can leave a torn last line, or a result that the next
attempt makes once more: both are removed when the file is opened again. Where runs are kept in a store the file goes
there now and then: a driver that goes on elsewhere makes the results since then once more.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from blm.cluster import depot
from blm.model.errors import UserError

Record = dict[str, Any]
KEEP_EVERY_S = 30.0
"""Between two times that the file goes to the store of the run, if there is one."""


class Ledger:
    """The records of one file, by key; the last of several with the same key counts."""

    def __init__(self, path: Path, key: Sequence[str], keep: Callable[[Record], bool] = lambda _: True) -> None:
        """Open `path`, made if absent, and drop what is torn, doubled or not to be kept.

        key: the fields that identify a record. UserError if a whole line is no JSON object with these fields.
        """
        self._path = path
        self._key = tuple(key)
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        self._records = {self.key_of(record): record for record in self._parse(lines) if keep(record)}
        in_order = bool(lines) and not lines[-1] and len(lines) - 1 == len(self._records)
        if not in_order:
            self._rewrite()
        self._file: IO[bytes] = path.open("ab")
        self._kept_s = float("-inf")

    def _parse(self, lines: list[bytes]) -> Iterable[Record]:
        for number, line in enumerate(lines[:-1], start=1):  # what follows the last line break is torn, or nothing
            try:
                record = json.loads(line)
                self.key_of(record)
            except (ValueError, TypeError, KeyError):
                raise UserError(
                    f"{self._path} line {number} is no result of this version; delete the file and run the stage again"
                ) from None
            yield record

    def _rewrite(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".tmp-{os.getpid()}-{self._path.name}")
        temporary.write_bytes(b"".join(map(_line, self._records.values())))
        os.replace(temporary, self._path)

    def key_of(self, record: Record) -> tuple[Any, ...]:
        """What identifies a record."""
        return tuple(record[name] for name in self._key)

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self._records

    def __getitem__(self, key: tuple[Any, ...]) -> Record:
        return self._records[key]

    def __len__(self) -> int:
        return len(self._records)

    @property
    def records(self) -> list[Record]:
        """All records, in the order in which they came."""
        return list(self._records.values())

    def add(self, records: Iterable[Record]) -> None:
        """Append records; they are on disk when this returns."""
        new = list(records)
        self._file.write(b"".join(map(_line, new)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._records |= {self.key_of(record): record for record in new}
        if time.monotonic() - self._kept_s > KEEP_EVERY_S:
            depot.keep(self._path)
            self._kept_s = time.monotonic()

    def drop(self, keys: Iterable[tuple[Any, ...]]) -> None:
        """Remove the records of these keys, where there are any."""
        present = [key for key in keys if key in self._records]
        if present:
            for key in present:
                del self._records[key]
            self._file.close()
            self._rewrite()
            self._file = self._path.open("ab")

    def sort(self, place: Callable[[Record], Any]) -> None:
        """Put the file's lines in the order of `place`, so that it tells nothing of the order in which they came."""
        in_order = dict(sorted(self._records.items(), key=lambda entry: place(entry[1])))
        if list(in_order) != list(self._records):
            self._records = in_order
            self._file.close()
            self._rewrite()
            self._file = self._path.open("ab")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _line(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
