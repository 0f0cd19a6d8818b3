"""One process at a time in a run folder: a lock that the system takes back when its holder ends, however it ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from blm.model.errors import UserError

LOCK = ".lock"


@contextmanager
def locked(run_root: Path) -> Iterator[None]:
    """Hold the run folder for this process.

    UserError if another one holds it. Freed when the process ends, however.
    """
    run_root.mkdir(parents=True, exist_ok=True)
    with (run_root / LOCK).open("a+") as file:
        if not _try_lock(file):
            time.sleep(0.2)  # `blm status` may be looking
            if not _try_lock(file):
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise UserError(
                    f"run folder {run_root} is in use by {holder}; wait until it ends, or choose another run "
                    "with --name"
                )
        file.truncate(0)
        file.write(f"process {os.getpid()} (since {time.strftime('%H:%M:%S')})")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def is_locked(run_root: Path) -> bool:
    """Whether a process holds the run folder now."""
    path = run_root / LOCK
    if not path.exists():
        return False
    with path.open("r+") as file:
        return not _try_lock(file)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
