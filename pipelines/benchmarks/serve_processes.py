"""Servers that `blm bench serve` starts and stops, and the memory of all their processes.

Memory is the proportional set size, in which a page shared by n processes counts 1/n for each. What other servers share
counts for them too, so memory is measured while nothing else of this kind runs.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from blm.cluster.ports import free_port
from blm.model.errors import UserError
from blm.serve.config import SERVED_NAME

START_S = 900
"""A server that is not ready after so long will not be."""
LEAVE_S = 60
HOST = "127.0.0.1"
REPLICA = "ray::ServeReplica"
"""How the processes of Ray Serve's replicas call themselves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    url: str
    """http://host:port."""
    log: Path
    """What it printed."""
    start_s: float
    """From the command to the first good answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Proportional set size of a server's processes, in MB."""

    total_mb: float
    """All of them."""
    model_mb: float
    """Of the replicas and what they have started: without Ray itself."""
    processes: Mapping[str, float]
    """Of those, by what a process calls itself."""


def started_blm(
    folder: Path, config: Mapping[str, Any], scratch: Path, name: str, environment: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[Served]:
    """`blm serve` of a checkpoint until the block ends.

    config: what its YAML file holds, besides the port. name: of its files in `scratch`. UserError with the end of what
    it printed if it does not start.
    """
    port = free_port()
    file = scratch / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**config, "host": HOST, "port": port}))
    command = [sys.executable, "-m", "blm.pipelines.cli", "serve", "--model", str(folder), "--config", str(file)]
    return started(command, port, scratch / f"{name}.log", environment or {})


def started_vllm(
    folder: Path, options: Mapping[str, Any], scratch: Path, environment: Mapping[str, str]
) -> contextlib.AbstractContextManager[Served]:
    """Bare `vllm serve` of the same folder until the block ends; options: of its engine, by their names in Python."""
    port = free_port()
    command = [
        *(str(Path(sys.executable).with_name("vllm")), "serve", str(folder)),
        *("--host", HOST, "--port", str(port), "--served-model-name", SERVED_NAME),
        *("--disable-uvicorn-access-log", *flags(options)),
    ]
    return started(command, port, scratch / "vllm.log", environment)


def flags(options: Mapping[str, Any]) -> list[str]:
    """Engine options as words of a command line: `{"max_model_len": 512}` is `--max-model-len 512`."""
    words: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", json.dumps(value) if isinstance(value, Mapping | list | tuple) else str(value)]
    return words


@contextmanager
def started(command: Sequence[str], port: int, log: Path, environment: Mapping[str, str]) -> Iterator[Served]:
    """A server out of reach of Ctrl-C in our terminal; with the block it and everything below it ends."""
    began_s = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, process_group=0, env=os.environ | environment
        )
    try:
        url = f"http://{HOST}:{port}"
        _wait(process, f"{url}/health", log)
        yield Served(process=process, url=url, log=log, start_s=time.perf_counter() - began_s)
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while not healthy(url):
        if process.poll() is not None or time.monotonic() > deadline_s:
            said = " ".join(log.read_text(errors="replace").split())[-600:]
            raise UserError(f"{' '.join(map(str, process.args))} did not start; it said: ... {said}")  # type: ignore[arg-type]
        time.sleep(0.5)


def healthy(url: str) -> bool:
    """Whether a GET is answered with status 200."""
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to leave; what is still there after a minute, of all that it started, is killed."""
    below = []
    with contextlib.suppress(psutil.Error):
        below = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LEAVE_S)
    for one in below:
        with contextlib.suppress(psutil.Error):
            one.kill()  # psutil knows a process by its start too: never another one of the same number
    if process.poll() is None:
        process.kill()
    process.wait()


def memory_of(pid: int) -> Memory:
    """Of a process and everything below it; without replicas among them, all of it is the model's."""
    root = psutil.Process(pid)
    everything = {process.pid: process for process in (root, *root.children(recursive=True))}
    replicas = [process for process in everything.values() if _words(process).startswith(REPLICA)]
    below = {one.pid for replica in replicas for one in (replica, *replica.children(recursive=True))} or set(everything)
    total_mb, found = 0.0, dict[str, float]()
    for number, process in everything.items():
        try:
            mb = process.memory_full_info().pss / 2**20
        except psutil.Error:  # ended meanwhile
            continue
        total_mb += mb
        if number in below:
            name = (_words(process).split() or ["?"])[0].rpartition("/")[2]
            found[name] = found.get(name, 0.0) + mb
    return Memory(
        total_mb=round(total_mb, 1),
        model_mb=round(sum(found.values()), 1),
        processes={name: round(mb, 1) for name, mb in found.items()},
    )


def _words(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
