"""Corpora from outside to conversations of ours: found, checked, without repeats and benchmark items, in two splits.

    pieces      every source is cut into pieces of work; Ray Data workers read, check and write them, one by one
    selection   one look at a few hundred bytes of every row decides which stay
    files       `train/<source>-00000.parquet`, `test/...`; reports in `ingest/`, refused records in `quarantine/`

Finished pieces are kept: after a kill the same call goes on. The result does not depend on the number of workers.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines.datasets.items import map_items
from blm.pipelines.fingerprint import plain
from blm.pipelines.ingest.decontaminate import Protected, joined
from blm.pipelines.ingest.files import SPLITS, write_files
from blm.pipelines.ingest.options import IngestConfig
from blm.pipelines.ingest.own_rows import own_rows
from blm.pipelines.ingest.parts import Part, is_finished, load_part
from blm.pipelines.ingest.pieces import PieceWorker, ProtectedWorker, Work
from blm.pipelines.ingest.quarantine import refuse_if_too_many
from blm.pipelines.ingest.report import print_reports, source_report
from blm.pipelines.ingest.selection import select
from blm.pipelines.ingest.sources import Found, find_benchmark, find_source, work_of
from blm.pipelines.workspace import read_json_if_there, write_json

PARTS = "parts/ingest"
"""Where unfinished work lies below the output folder, until `forget_parts`."""
Progress = Callable[[str], None]


def ingest(
    config: IngestConfig, out: Path, *, workers: int, progress: Progress, own: Path | None = None
) -> dict[str, Any]:
    """Ingest all sources into `out`. Ray must be running, but for 0 workers. Returns the reports by source.

    own: a folder with `train` and `test` that holds rows already; equal rows are left out, and so is what its test
    split shows. UserError for sources that cannot be found or read, or of which too many records are refused.
    """
    found = [find_source(source, config) for source in config.sources]
    for one in found:
        progress(f"{one.source.name}: {one.format} ({one.why}), {len(one.pieces)} pieces of work")
    benchmarks = [one for path in config.decontaminate for one in find_benchmark(path, config)]
    parts = out / PARTS
    if not _same_as_before(parts, config, [*found, *benchmarks], own):
        for source in config.sources:
            depot.drop(out / "quarantine" / source.name)
    taken, protected = _known(benchmarks, parts, own, workers, progress)
    work = [work_of(one, parts, out) for one in found]
    finished = _convert(work, protected, workers, progress)
    for one, of_source in zip(found, finished, strict=True):
        _refuse_bad(one, of_source, config, out)
    progress("looking for repeated rows")
    formats = [one.format for one in found]
    fates = select(
        config.sources, formats, finished, taken, near=config.near_duplicates, seed=config.seed, folder=parts / "notes"
    )
    written = write_files(config.sources, finished, fates, out, parts, workers)
    reports: dict[str, Any] = {}
    first = 0
    for one, of_source, files in zip(found, finished, written, strict=True):
        last = first + sum(part.rows for part in of_source)
        reports[one.source.name] = report = source_report(one, of_source, fates[first:last], files)
        write_json(out / "ingest" / f"{one.source.name}.json", report)
        first = last
    print_reports(reports, progress)
    return reports


def forget_parts(out: Path) -> None:
    """Remove what only an unfinished run needs."""
    depot.drop(out / PARTS)


def _same_as_before(parts: Path, config: IngestConfig, found: Sequence[Found], own: Path | None) -> bool:
    """Whether an earlier attempt had the same options and files; if not, its work is removed."""
    decisive = plain(replace(config, max_rejected_share=1.0))
    files = [[str(path), *_identity(path)] for one in found for path in one.files]
    if own is not None:
        own_files = sorted(path for split in SPLITS for path in (own / split).glob("*.parquet"))
        files += [[str(path), path.stat().st_size] for path in own_files]
    key = hashlib.sha256(json.dumps([decisive, files], sort_keys=True).encode()).hexdigest()
    if read_json_if_there(parts / "plan.json") == key:
        return True
    depot.drop(parts)
    write_json(parts / "plan.json", key)
    depot.keep(parts / "plan.json")
    return False


def _identity(path: Path) -> tuple[int, int]:
    """Size and time of change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _known(
    benchmarks: Sequence[Found], parts: Path, own: Path | None, workers: int, progress: Progress
) -> tuple[np.ndarray, Path]:
    """Digests of rows that are there already, and a file with all that is known of test items."""
    taken, items = own_rows(own, parts / "own", workers) if own else (np.zeros((0, 2), np.uint64), Protected())
    work = [work_of(one, parts, parts, benchmark=f"benchmark-{i:04d}") for i, one in enumerate(benchmarks)]
    list(map_items(_waiting(work), ProtectedWorker, arguments={"work": work}, workers=workers, light=True))
    read = [Protected.load(part.stem.with_suffix(".npz")) for of_source in _finished(work) for part in of_source]
    for one, of_source in zip(benchmarks, _finished(work), strict=True):
        counts = {
            name: sum(part.counts[name] for part in of_source) for name in ("items", "without_media", "unreadable")
        }
        if not counts["items"]:
            raise UserError(f"benchmark {one.source.path} has no test item that can be read; is it the right folder?")
        missing = f", media of {counts['without_media']} missing" if counts["without_media"] else ""
        progress(f"not to be trained on: {counts['items']} items of {one.source.path} ({one.format}){missing}")
    path = parts / "test-items.npz"
    joined([items, *read]).save(path)
    depot.keep(path)
    return taken, path


def _waiting(work: Sequence[Work]) -> list[dict[str, Any]]:
    return [
        {"source": i, "piece": j}
        for i, one in enumerate(work)
        for j in range(len(one.pieces))
        if not is_finished(one.stem_of(j))
    ]


def _finished(work: Sequence[Work]) -> list[list[Part]]:
    for one in work:  # what workers on other nodes wrote
        depot.here(one.stem)
        depot.here(one.quarantine)
    return [[load_part(one.stem_of(j)) for j in range(len(one.pieces))] for one in work]


def _convert(work: Sequence[Work], protected: Path, workers: int, progress: Progress) -> list[list[Part]]:
    """Read every piece that is not finished yet."""
    waiting = _waiting(work)
    n_pieces = sum(len(one.pieces) for one in work)
    if len(waiting) < n_pieces:
        progress(f"{n_pieces - len(waiting)} of {n_pieces} pieces were read before")
    started_s = time.perf_counter()
    records = rejected = n_bytes = 0
    arguments = {"work": list(work), "protected": str(protected)}
    results = map_items(waiting, PieceWorker, arguments=arguments, workers=workers, light=True, reads=("protected",))
    for done, result in enumerate(results, start=1):
        records += result["records"]
        rejected += result["rejected"]
        n_bytes += result["bytes"]
        if done == len(waiting) or done % max(1, len(waiting) // 10) == 0:
            rate = records / (time.perf_counter() - started_s)
            progress(
                f"{done}/{len(waiting)} pieces, {records} records, {rejected} refused, {n_bytes / 1e6:.0f} MB,"
                f" {rate:.0f} records/s"
            )
    return _finished(work)


def _refuse_bad(found: Found, parts: Sequence[Part], config: IngestConfig, out: Path) -> None:
    """UserError if a source is empty or mostly bad."""
    records = sum(part.counts["records"] for part in parts)
    if not records:
        raise UserError(f"source {found.source.name}: {found.source.path} ({found.format}) has no records")
    reasons: dict[str, int] = {}
    for part in parts:
        for reason, n in part.counts["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + n
    folder = out / "quarantine" / found.source.name
    refuse_if_too_many(found.source.name, records, reasons, config.max_rejected_share, folder)
