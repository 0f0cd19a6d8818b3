"""Ends a process whose native code hangs.

A simulator, a driver or a planner that never returns holds Python's main thread, so no exception and no signal handler
can reach it. An operating-system thread still can: it ends the process with status 124, and whoever started the process
(a work pool) sees a death it knows how to handle.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_STATUS = 124
"""As `timeout` uses it."""


class Watchdog:
    """Watches the blocks of code run under `guard`, one at a time. Costs one sleeping thread."""

    def __init__(self, *, check_every_s: float = 0.5) -> None:
        self._check_every_s = check_every_s
        self._deadline_s: float | None = None
        self._what = ""
        self._thread: threading.Thread | None = None

    @contextmanager
    def guard(self, what: str, limit_s: float) -> Iterator[None]:
        """Ends the process if the block takes longer than `limit_s`; `what` is said on standard error."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        self._what = what
        self._deadline_s = time.monotonic() + limit_s
        try:
            yield
        finally:
            self._deadline_s = None

    def _watch(self) -> None:
        while True:
            time.sleep(self._check_every_s)
            deadline_s = self._deadline_s
            if deadline_s is not None and time.monotonic() > deadline_s:
                sys.stderr.write(f"watchdog: {self._what} hangs; ending process {os.getpid()}\n")
                sys.stderr.flush()
                os._exit(EXIT_STATUS)
