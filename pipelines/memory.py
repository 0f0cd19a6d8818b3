"""How long a stage took and how much memory its whole process tree held: the driver, Ray and every worker.

Memory is the proportional set size, in which a page shared by n processes counts 1/n for each: the sum over the tree
is what the machine really gives, where the sum of resident sizes would count PyTorch's libraries once a worker.
"""

import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

INTERVAL_S = 2.0


def tree_memory_gb() -> float:
    """Proportional set size of this process and all its descendants now, in GB."""
    root = psutil.Process()
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            memory = process.memory_full_info()
            total += getattr(memory, "pss", 0) or memory.rss
        except psutil.Error:  # ended meanwhile, or not ours to look into
            continue
    return total / 1e9


def machine() -> dict[str, Any]:
    """This machine for the record: processor, cores, memory, and the first GPU if PyTorch is loaded and sees one."""
    names = [line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")]
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else None
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": gpu,
    }


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


class Meter:
    """Wall time and peak memory while the `with` body runs; `on_tick(wall_s)` is called every few seconds beside it."""

    def __init__(self, on_tick: Callable[[float], None] | None = None) -> None:
        self.wall_s = 0.0
        self.peak_gb = 0.0
        self._on_tick = on_tick
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meter", daemon=True)

    def __enter__(self) -> "Meter":
        self._began_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.wall_s = time.monotonic() - self._began_s
        self.peak_gb = max(self.peak_gb, tree_memory_gb())

    def _watch(self) -> None:
        while True:
            self.peak_gb = max(self.peak_gb, tree_memory_gb())
            if self._on_tick is not None:
                self._on_tick(time.monotonic() - self._began_s)
            if self._stop.wait(INTERVAL_S):
                return
