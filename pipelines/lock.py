"""One process at a time in a run folder: a lock that the system takes back when its holder ends, however it ends.

A run in a store has a claim there too (`blm.cluster.claims`): drivers on other nodes do not see this one's lock.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from blm.cluster import claims, depot
from blm.model.errors import UserError

LOCK = ".lock"


@contextmanager
def locked(run_root: Path) -> Iterator[Callable[[], None]]:
    """Hold the run folder for this process; yields a function that raises UserError if it holds it no longer.

    UserError if another one holds it. Freed when the process ends, however; in a store, some time later at most.
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
        store, name = depot.store(), depot.name_of(run_root)
        try:
            if store is None or name is None:
                yield lambda: None
            else:
                patience_s = min(store.patience_s, claims.START_PATIENCE_S)
                with claims.claimed(store.uri, name, claims.node_id(run_root), patience_s=patience_s) as claim:
                    yield claim.check
        finally:
            file.truncate(0)


def is_locked(run_root: Path) -> bool:
    """Whether a process holds the run folder now, or has claimed it in the store."""
    store, name = depot.store(), depot.name_of(run_root)
    if store is not None and name is not None:
        return claims.holder(store, name) is not None
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
