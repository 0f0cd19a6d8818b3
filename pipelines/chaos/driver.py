"""The driver: `blm run` as a process of its own, given again whenever it is gone."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from blm.model.errors import UserError
from blm.pipelines.chaos.processes import die_with_parent

PAUSE_S = 2.0
"""Between an end of the driver's own and the next one."""
ENDS = 6
"""Times that it may end by itself, one after another, without the run getting on meanwhile."""
LEAVE_S = 20.0


class Driver:
    """One command, of which at most one process runs. A context manager; nothing of it stays."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """log: what all its processes print, one after another. environment: beside this process's own."""
        self._command, self._log, self._environment = list(command), log, dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._not_before_s = 0.0
        self._ends = 0
        self.starts = 0
        """How often it was started."""
        self.gave_up = 0
        """How often it ended by itself, with an error."""

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LEAVE_S)
            self._process.kill()
            self._process.wait()

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    def keep_going(self) -> bool:
        """Start it if it is not there. True once it has ended well.

        Raises UserError with its last words if it has ended by itself too often.
        """
        if self.running or time.monotonic() < self._not_before_s:
            return False
        if self._process is not None and not self._killed:
            if self._process.returncode == 0:
                return True
            self._ended()
            return False
        self._killed, self._process = False, self._start()
        return False

    def kill(self) -> bool:
        """SIGKILL, whether it was there."""
        if self._process is None or not self.running:
            return False
        self._process.kill()
        self._process.wait()
        self._killed = True
        return True

    def got_on(self) -> None:
        """The run has got on since: the driver is worth its patience again."""
        self._ends = 0

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with self._log.open("ab") as log:
            log.write(f"--- start {self.starts}, {time.strftime('%H:%M:%S')}\n".encode())
            log.flush()
            return subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C in the terminal is ours to handle
                env=os.environ | self._environment,
                preexec_fn=die_with_parent,
            )

    def _ended(self) -> None:
        """It ended by itself, with an error."""
        assert self._process is not None, "somebody ended"
        self.gave_up += 1
        self._ends += 1
        words = " ".join(self._log.read_text(errors="replace").split("--- start")[-1].split())[-700:]
        if self._ends >= ENDS:
            raise UserError(
                f"the run ended by itself {self._ends} times without getting on; its last words: ... {words}"
                f" (all of them: {self._log})"
            )
        self._process, self._not_before_s = None, time.monotonic() + PAUSE_S
