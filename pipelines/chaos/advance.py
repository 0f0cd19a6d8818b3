"""How far a run is, read from its folders while others write there: what is finished, what is under way, and when it
last got on.

Getting on means that a file of the stage under way has come to be finished (renamed from its temporary name), or that a
ledger has grown. What a process merely says does not count.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blm.model.errors import UserError
from blm.pipelines.keeping import RUN
from blm.pipelines.workspace import BEGUN, BOOKKEEPING, MANIFEST, read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Advance:
    """How far the run is."""

    finished: tuple[str, ...]
    """Stages with a manifest, in order."""
    stage: str | None
    """The first one without; None if all are finished."""
    begun: bool
    """Whether work on it has begun."""
    newest_s: float
    """When its newest finished file was written (seconds since the epoch); 0 without any."""


def advance(run_folders: Callable[[], Sequence[Path]], stages: Sequence[str]) -> Advance:
    """How far a run is.

    run_folders: where copies of the run are: one folder, or with a store one on each node that has some of it.
    """
    copies = run_folders()
    names = _stage_folders(copies)
    finished: list[str] = []
    for stage in stages:
        folders = [copy / names[stage] for copy in copies] if stage in names else []
        if any((folder / MANIFEST).exists() for folder in folders):
            finished.append(stage)
            continue
        begun = any((folder / BEGUN).exists() for folder in folders)
        newest_s = max((_newest(folder) for folder in folders), default=0.0)
        return Advance(finished=tuple(finished), stage=stage, begun=begun, newest_s=newest_s)
    return Advance(finished=tuple(finished), stage=None, begun=False, newest_s=0.0)


def _stage_folders(copies: Sequence[Path]) -> dict[str, str]:
    """Names of the stages' folders, as the run's own record has them; empty before there is one."""
    for copy in copies:
        with suppress(UserError):  # not there yet
            return {stage: entry["folder"] for stage, entry in read_json(copy / RUN)["stages"].items()}
    return {}


def _newest(folder: Path) -> float:
    newest_s = 0.0
    for place, _, names in os.walk(folder):  # unlike `rglob` it bears with folders that are deleted meanwhile
        for name in names:
            if name not in BOOKKEEPING and not name.startswith(".tmp-"):
                with suppress(OSError):  # renamed or deleted meanwhile
                    newest_s = max(newest_s, os.stat(os.path.join(place, name)).st_mtime)
    return newest_s
