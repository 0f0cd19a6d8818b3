"""What may be killed, and nothing else: processes below a raylet or a driver that this process started itself."""

import ctypes
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil

WORKING = "ray::"
"""How the title of one of Ray's workers begins while it has an actor or a task."""
NOT_OURS = ("IDLE", "DashboardAgent", "RuntimeEnvAgent")
"""Titles of processes that have nothing to do, or are part of a raylet and end with it."""
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)  # loaded before there is a child: between fork and exec little is safe


@dataclass(frozen=True, kw_only=True, slots=True)
class Victim:
    """A worker process of the cluster."""

    process: psutil.Process
    name: str
    """The actor's class or the task, as Ray titles the process."""


def workers_below(raylets: Iterable[int]) -> list[Victim]:
    """The processes below some raylets that have something to do, oldest first."""
    found: dict[int, Victim] = {}
    for raylet in raylets:
        with suppress(psutil.Error):
            for process in psutil.Process(raylet).children(recursive=True):
                name = _name(process)
                if name:
                    found[process.pid] = Victim(process=process, name=name)
    return [found[pid] for pid in sorted(found)]


def _name(process: psutil.Process) -> str:
    """What a worker is at; empty for anything else."""
    with suppress(psutil.Error):
        title = " ".join(process.cmdline()).strip()
        if title.startswith(WORKING) and process.status() != psutil.STATUS_ZOMBIE:
            name = title.removeprefix(WORKING)
            return "" if name.startswith(NOT_OURS) else name.partition(".")[0].partition("(")[0].strip()
    return ""


def kill(process: psutil.Process) -> bool:
    """SIGKILL, whether it was still there. psutil knows a process by its start too: never another one of its number."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def still_there(processes: Iterable[psutil.Process]) -> Iterator[psutil.Process]:
    """Those that have not ended."""
    for process in processes:
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def die_with_parent() -> None:
    """In a child before it becomes its program: end, at once, when the parent ends, however that ends (Linux)."""
    with suppress(OSError, AttributeError):
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
