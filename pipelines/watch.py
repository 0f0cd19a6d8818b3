"""How a running stage can be watched from anywhere: its progress and last words in one small file, and its logs.

    runs/<name>/status/<stage>-<hash8>.json                   written by the driver every few seconds
    runs/<name>/logs/<stage>-<hash8>/attempt-<n>/<node>/...   ends of all nodes' logs, when the stage ends or fails

`blm status` reads these files, so it needs neither Ray nor the machine of the driver; with a store they are kept there
too. Progress is taken from the lines that stages and their workers print (`[stage] 12/40 ...`): every stage has them,
and they cost nothing. Watching must never end a stage: whatever goes wrong in here is left out.
"""

import contextlib
import re
import shutil
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from blm.cluster import depot, ray_runtime
from blm.cluster.asks import KINDS
from blm.cluster.logs import collect_logs
from blm.model.errors import UserError
from blm.pipelines.workspace import write_json

INTERVAL_S = 3.0
KEEP_S = 20.0
"""Between two copies of the file to a store."""
LINES = 6
ATTEMPTS_KEPT = 3
"""Of a stage, folders of logs."""
COUNT = re.compile(r"\b(\d+)(?:/| of )(\d+)\b")


class Watch:
    """What is known of a running stage."""

    def __init__(self, stage: str, attempt: int) -> None:
        self.stage = stage
        self.attempt = attempt
        self.begun = time.time()
        self._lines: deque[str] = deque(maxlen=LINES)
        self._count: tuple[int, int] | None = None
        self._first: tuple[float, int] | None = None
        self._counted = self.begun

    def hear(self, line: str, now: float | None = None) -> None:
        """Take in a line of progress. A count that starts anew (`3/90` after `600/600`) starts a new rate."""
        now = time.time() if now is None else now
        self._lines.append(line[:300])
        found = COUNT.search(line)
        if found is None or not line.startswith(f"[{self.stage}]"):
            return
        done, total = int(found[1]), int(found[2])
        if total == 0 or done > total:
            return
        if self._count is None or self._first is None or total != self._count[1] or done < self._count[0]:
            self._first = (now, done)
        self._count, self._counted = (done, total), now

    def record(self, now: float | None = None) -> dict[str, Any]:
        """What the file says: `done`, `of`, `per_s` and `left_s` are None until they are known."""
        now = time.time() if now is None else now
        done, of = self._count or (None, None)
        rate = left = None
        if self._count is not None and self._first is not None and self._counted > self._first[0]:
            rate = (self._count[0] - self._first[1]) / (self._counted - self._first[0])
            left = (self._count[1] - self._count[0]) / rate if rate else None
        return {
            "stage": self.stage,
            "attempt": self.attempt,
            "begun": self.begun,
            "now": now,
            "driver": socket.gethostname(),
            "done": done,
            "of": of,
            "per_s": rate,
            "left_s": left,
            "lines": list(self._lines),
        }


def status_file(folder: Path) -> Path:
    """Where the progress of a stage's folder is told."""
    return folder.parent / "status" / f"{folder.name}.json"


def logs_folder(folder: Path) -> Path:
    """Where the logs of a stage's folder are, one folder an attempt."""
    return folder.parent / "logs" / folder.name


@contextlib.contextmanager
def watched(folder: Path, stage: str, *, attempt: int) -> Iterator[Watch]:
    """While the body runs, keep its progress in `status_file(folder)`; at its end collect all nodes' logs."""
    watch, path = Watch(stage, attempt), status_file(folder)
    stop = threading.Event()
    thread = threading.Thread(target=_write_often, args=(watch, path, stop), name="watch", daemon=True)
    thread.start()
    ended = "finished"
    try:
        with contextlib.redirect_stdout(cast(TextIO, _Heard(sys.stdout, watch))):
            yield watch
    except BaseException as error:
        ended = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise
    finally:
        stop.set()
        thread.join(timeout=2.0)  # it may wait for a cluster that is gone
        _at_the_end(watch, path, logs_folder(folder) / f"attempt-{attempt}", ended)


def _write_often(watch: Watch, path: Path, stop: threading.Event) -> None:
    kept = 0.0
    while True:
        _write(path, watch.record() | {"nodes": nodes()})
        if time.monotonic() - kept > KEEP_S:
            _keep(path)
            kept = time.monotonic()
        if stop.wait(INTERVAL_S):
            return


def _at_the_end(watch: Watch, path: Path, logs: Path, ended: str) -> None:
    """The last record, and the logs; older attempts' go. Nothing in here may hide how the stage ended."""
    _write(path, watch.record() | {"ended": ended})
    _keep(path)
    try:
        if collect_logs(logs, since=watch.begun):
            for old in sorted(logs.parent.glob("attempt-*"), key=lambda one: one.stat().st_mtime)[:-ATTEMPTS_KEPT]:
                shutil.rmtree(old, ignore_errors=True)
            _keep(logs)
    except Exception as error:
        print(f"[{watch.stage}] the nodes' logs could not be collected: {error}", flush=True)


def _write(path: Path, record: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a full disk is told by the stage itself
        write_json(path, record)


def _keep(path: Path) -> None:
    with contextlib.suppress(OSError, UserError):
        depot.keep(path)


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster that this process is connected to: name, CPUs, GPUs, kinds, whether alive."""
    if not ray_runtime.is_up():
        return []
    import ray

    try:
        listed = ray.nodes()
    except Exception:  # the cluster is going down; the stage will say so
        return []
    return [
        {
            "name": node.get("NodeName") or node["NodeManagerAddress"],
            "id": node["NodeID"][:6],
            "alive": node["Alive"],
            "cpus": node["Resources"].get("CPU", 0),
            "gpus": node["Resources"].get("GPU", 0),
            "kinds": [kind for kind in KINDS if kind in node["Resources"]],
        }
        for node in listed
    ]


class _Heard:
    """Standard output with a listener: whole lines of progress are told to the watch as well."""

    def __init__(self, inner: TextIO, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch
        self._begun = threading.local()  # `print` writes a line and its end apart, and Ray prints from a thread

    def write(self, text: str) -> int:
        """Write, and listen."""
        written = self._inner.write(text)
        *lines, rest = (getattr(self._begun, "text", "") + text).split("\n")
        self._begun.text = rest[-1000:]
        for line in lines:
            if ray_runtime.PROGRESS.match(line):
                self._watch.hear(line)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # what else a stream has
