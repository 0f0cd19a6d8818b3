"""A corpus as pieces of work, the same ones in the same order on every machine, and the records of one piece.

pieces = split("/data/llava", detect("/data/llava").format, 8 * 2**20)
for record in read_piece(pieces[0]): ...          # Record | Rejected
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from blm.model.errors import UserError
from blm.pipelines.datasets.readers import json_files, lerobot, parquet_rows, webdataset
from blm.pipelines.datasets.readers.dataset_info import options_of
from blm.pipelines.datasets.readers.formats import FORMATS, read_sample
from blm.pipelines.datasets.readers.json_files import Cut
from blm.pipelines.datasets.readers.record import Fault, Options, Place, Record, Rejected, printable, rejected

PIECE_BYTES = 8 * 2**20
"""A piece's size if nobody says: some thousand records, a second's work."""
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SUFFIXES = (*JSON_SUFFIXES, ".parquet", *TAR_SUFFIXES)
NO_RECORDS = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "config.json", "package.json"})
"""Files that lie beside corpora and hold none."""
DEEPEST = 6
"""Folders below a corpus that are looked into."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Part of a corpus that one worker reads."""

    format: str
    """Key of `FORMATS`."""
    layout: str
    """How the file is laid out: `lines`, `array`, `whole`, `parquet`, `tar` or `lerobot`."""
    path: str
    """The file; of a LeRobot dataset its folder."""
    name: str
    """The file within the corpus."""
    start: int
    """First byte, row group or episode."""
    stop: int
    """The one after the last."""
    first: int
    """Number of the first record, from 1."""
    options: Options = field(default_factory=Options)
    """What a person said about the corpus."""


def corpus_files(path: str | Path) -> list[Path]:
    """The files of a corpus that may hold records, in order: the path itself, or what lies below it. UserError if there
    are none.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise UserError(f"{root} does not exist; name a file or folder of conversations")
    found: list[Path] = []
    for folder, below, names in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        below[:] = sorted(name for name in below if not name.startswith(".")) if depth < DEEPEST else []
        found += [Path(folder, name) for name in names if _may_hold_records(name)]
    if not found:
        raise UserError(f"{root} holds no file of conversations ({', '.join(SUFFIXES)}); name another folder")
    return sorted(found)


def _may_hold_records(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".") and name not in NO_RECORDS


def file_layout(path: Path) -> str:
    """How a file is laid out, by its name and beginning. UserError for a file of another kind."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith(TAR_SUFFIXES):
        return "tar"
    if name.endswith(JSON_SUFFIXES):
        try:
            return json_files.layout(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); mend its permissions") from error
    raise UserError(f"{path} is none of {', '.join(SUFFIXES)}; unpack or rename it")


def split(path: str | Path, format: str, size: int = PIECE_BYTES, options: Options | None = None) -> list[Piece]:
    """Pieces of about `size` bytes; of a LeRobot dataset, of a few episodes. UserError if there is nothing to read.

    Columns and tags that are not given are taken from a `dataset_info.json` of LLaMA-Factory beside a file.
    """
    options = options or Options()
    if format not in FORMATS:
        raise UserError(f"there is no format {format!r}; the formats are {', '.join(FORMATS)}")
    if size < 1:
        raise UserError(f"pieces of {size} bytes; give a positive size")
    root = Path(path)
    if format == "lerobot":
        empty = Piece(format=format, layout=format, path=str(root), name=root.name, start=0, stop=0, first=1)
        return [_cut(empty, cut, options) for cut in lerobot.cut_episodes(root)]
    pieces: list[Piece] = []
    for file in corpus_files(root):
        layout = file_layout(file)
        name = file.name if file == root else file.relative_to(root).as_posix()
        empty = Piece(format=format, layout=layout, path=str(file), name=name, start=0, stop=0, first=1)
        own = options_of(file, options)
        pieces += [_cut(empty, cut, own) for cut in _cuts(file, layout, size)]
    return pieces


def _cut(piece: Piece, cut: Cut, options: Options) -> Piece:
    start, stop, first = cut
    return replace(piece, start=start, stop=stop, first=first, options=options)


def _cuts(file: Path, layout: str, size: int) -> list[Cut]:
    if layout == "lines":
        return json_files.cut_lines(file, size)
    if layout == "array":
        return json_files.cut_array(file, size)
    if layout == "parquet":
        return parquet_rows.cut_row_groups(file, size)
    if layout == "tar":
        return webdataset.cut_tar(file, size)
    return [(0, file.stat().st_size, 1)]


def read_piece(piece: Piece) -> Iterator[Record | Rejected]:
    """The records of a piece, one after the other, and what was rejected among them. Never raises for what is in the
    file; a file that is gone is one rejection.
    """
    try:
        if piece.layout == "lerobot":
            yield from lerobot.read_episodes(Path(piece.path), (piece.start, piece.stop, piece.first), piece.options)
        elif piece.layout == "tar":
            yield from _read_tar(piece)
        else:
            yield from _read_values(piece)
    except OSError as error:
        yield rejected(piece.path, Fault("media_missing", f"the file cannot be read: {error.strerror}"))


def _place(piece: Piece, number: int | str) -> Place:
    mark = f":{number}" if piece.layout in ("lines", "tar") else f"[{number}]"
    return Place(
        id=printable(f"{piece.name}{mark}"),
        where=printable(f"{piece.path}{mark}"),
        folder=os.path.dirname(piece.path),
    )


def _read_values(piece: Piece) -> Iterator[Record | Rejected]:
    convert = FORMATS[piece.format].convert
    path, cut = Path(piece.path), (piece.start, piece.stop, piece.first)
    read = {"lines": json_files.read_lines, "parquet": parquet_rows.read_rows}.get(piece.layout, json_files.read_array)
    for number, value in read(path, cut):
        yield from read_sample(value, _place(piece, number), piece.options, convert)


def _read_tar(piece: Piece) -> Iterator[Record | Rejected]:
    convert = FORMATS[piece.format].convert
    for _, key, members in webdataset.read_tar(Path(piece.path), (piece.start, piece.stop, piece.first)):
        place = _place(piece, key)
        if isinstance(members, Fault):
            yield rejected(place.where, members)
            continue
        try:
            sample = webdataset.with_members(webdataset.sample_of(members), members)
        except Fault as fault:
            yield rejected(place.where, fault)
            continue
        for record in read_sample(sample, place, piece.options, convert):
            yield webdataset.attach(record, members) if isinstance(record, Record) else record
