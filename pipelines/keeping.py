"""What a driver brings from a run's store, and what it keeps there beside the stages' own files.

In the beginning only what says how far each stage is; a whole folder when a stage needs it. Without a store
(`blm.cluster.depot`) everything is where it is, and nothing here does anything.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from blm.cluster import depot
from blm.pipelines.plan import Step
from blm.pipelines.tracking import ARTIFACTS, DATABASE
from blm.pipelines.workspace import BEGUN, MANIFEST, read_json, write_json

RUN = "run.json"
_tracked: set[Path] = set()
"""Runs whose MLflow store this process has brought."""


def bring_notes(plan: Mapping[str, Step]) -> None:
    """Bring what says how far each stage is."""
    for step in plan.values():
        for name in (MANIFEST, BEGUN):
            depot.here(step.folder / name)


def bring_folders(folders: Mapping[str, Path]) -> None:
    """Bring whole stages' folders, by stage name, telling the person of those that are not here at all."""
    store = depot.store()
    absent = [name for name, folder in folders.items() if not _has_output(folder)]
    if store is not None and absent:
        print(f"  bringing {', '.join(absent)} from {store.uri}", flush=True)
    for folder in folders.values():
        depot.here(folder)


def keep_stage(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a stage's manifest, in a store after everything else; before it is kept, nobody sees it here either."""
    depot.settle(folder)
    temporary = folder / f".tmp-{MANIFEST}"
    write_json(temporary, manifest)
    depot.keep(folder / MANIFEST, content=temporary)
    temporary.replace(folder / MANIFEST)


def bring_tracking(run_root: Path) -> None:
    """Bring the run's MLflow store, where it is a file of the run, and tell it where its files are now; once in a
    process, which holds it open afterwards."""
    if not depot.has_store() or run_root in _tracked:
        return
    _tracked.add(run_root)
    database = depot.here(run_root / DATABASE)
    depot.here(run_root / ARTIFACTS)
    if not database.exists():
        return
    now = (run_root / ARTIFACTS).resolve().as_uri()
    with closing(sqlite3.connect(database)) as connection, connection:
        for (before,) in connection.execute("SELECT artifact_location FROM experiments").fetchall():
            if before and before != now and before.endswith(f"/{run_root.name}/{ARTIFACTS}"):
                connection.execute("UPDATE experiments SET artifact_location = ?", (now,))
                connection.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", (before, now))


def keep_tracking(run_root: Path) -> None:
    """Keep the run's MLflow store, if it is a file of the run: a copy that no write is in the midst of."""
    database = run_root / DATABASE
    if not depot.has_store() or not database.exists():
        return
    copy = run_root / f".tmp-{DATABASE}"
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    depot.keep(database, content=copy)
    copy.unlink()
    if (run_root / ARTIFACTS).is_dir():
        depot.keep(run_root / ARTIFACTS)


def runs_of(root: Path) -> list[Path]:
    """The folders of all runs of a root, here or in the store, in order; `run.json` of each is here."""
    return [folder for folder in depot.folders(root) if depot.here(folder / RUN).exists()]


def bring_record(run_root: Path) -> dict[str, Any]:
    """A run's `run.json`, and beside it what says how far its stages are. UserError if there is no such run."""
    record: dict[str, Any] = read_json(depot.here(run_root / RUN))
    for stage in record["stages"].values():
        for name in (MANIFEST, BEGUN):
            depot.here(run_root / stage["folder"] / name)
    return record


def _has_output(folder: Path) -> bool:
    return any(path.name not in (MANIFEST, BEGUN) for path in folder.glob("*"))
