"""The chat files of an ingested corpus: the rows that stay, of each split, in files of bounded size.

A part whose rows all stay becomes a file without being copied. The names count a source's parts, so they and their
content are the same however many workers there were.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from blm.cluster import depot
from blm.pipelines.datasets.items import map_items
from blm.pipelines.datasets.parquet import open_parquet, remove_leftovers, temporary_path
from blm.pipelines.ingest.options import SourceConfig
from blm.pipelines.ingest.parts import Part, chat_writer, part_file
from blm.pipelines.ingest.selection import FATES

SPLITS = ("train", "test")


def write_files(
    sources: Sequence[SourceConfig],
    parts: Sequence[Sequence[Part]],
    fates: np.ndarray,
    out: Path,
    folder: Path,
    workers: int,
) -> list[dict[str, int]]:
    """Write `train/<source>-00000.parquet` and `test/...`; returns the number of files of each split, by source.

    fates: of all rows, uint8 [N]. folder: for what the workers need to know.
    """
    for split in SPLITS:
        (out / split).mkdir(parents=True, exist_ok=True)
        remove_leftovers(out / split)
        for source in sources:
            for path in (out / split).glob(f"{source.name}-*.parquet"):
                depot.drop(path)
    path = folder / "fates.npy"
    np.save(path, fates)
    depot.keep(path)
    items: list[dict[str, Any]] = []
    counts: list[dict[str, int]] = []
    first = 0
    for source, of_source in zip(sources, parts, strict=True):
        number = 0
        counts.append(dict.fromkeys(SPLITS, 0))
        for part in of_source:
            for i, n in enumerate(part.counts["rows"]):
                item = {"part": str(part_file(part.stem, i)), "first": first, "count": n}
                here = fates[first : first + n]
                for split in SPLITS:
                    target = out / split / f"{source.name}-{number:05d}.parquet"
                    stay = here == FATES.index(split)
                    counts[-1][split] += bool(stay.any())
                    if stay.all():
                        _link(Path(item["part"]), target)
                        depot.keep(target)
                    elif stay.any():
                        items.append(item | {"split": split, "out": str(target)})
                first, number = first + n, number + 1
    writing = map_items(
        items,
        FileWriter,
        arguments={"fates": str(path)},
        workers=workers,
        light=True,
        reads=("part", "fates"),
        writes=("out",),
    )
    list(writing)
    return counts


class FileWriter:
    """Copies some rows of a part."""

    def __init__(self, fates: str) -> None:
        self._fates = np.load(fates, mmap_mode="r")

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        stay = self._fates[item["first"] : item["first"] + item["count"]] == FATES.index(item["split"])
        _filter(Path(item["part"]), Path(item["out"]), stay)
        return {"out": item["out"], "rows": int(stay.sum())}


def _link(part: Path, out: Path) -> None:
    """The whole part under another name; a copy where the file system has no links."""
    temporary = temporary_path(out)
    try:
        os.link(part, temporary)
    except OSError:
        shutil.copyfile(part, temporary)
    os.replace(temporary, out)


def _filter(part: Path, out: Path, stay: np.ndarray) -> None:
    """Some rows of a part, a group of rows in memory at a time."""
    temporary = temporary_path(out)
    with open_parquet(part) as file, chat_writer(temporary) as writer:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            chosen = rows.filter(pa.array(stay[first : first + len(rows)]))
            first += len(rows)
            if len(chosen):
                writer.write_table(chosen)
    os.replace(temporary, out)
