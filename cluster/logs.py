"""What processes on every node logged, brought to one folder: `<folder>/<node>/<file>`, ends of files only.

Ray keeps logs on the node where they are written, and they go with the node. What a person needs after a failure is
little: the last words of our workers and of the node's own daemon. So every node gives the ends of its newest files,
and sizes are bounded whatever a worker printed.
"""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blm.cluster.ray_runtime import is_up, log_folder

FILE_BYTES = 64_000
"""Of each file, its end."""
NODE_BYTES = 2_000_000
"""Of each node, all files together."""
WAIT_S = 10.0
"""For all nodes together; one that does not answer is left out."""
NO_JOB = "ffffffff"
"""In the names of files of workers that Ray starts before there is work."""
DAEMONS = ("raylet.out", "raylet.err", "gcs_server.err", "monitor.err")
"""Files that tell of a node and not of one job."""

Tails = dict[str, bytes]
"""File name -> its end."""


def collect_logs(folder: Path, *, since: float) -> list[str]:
    """Write the ends of all nodes' logs that changed after `since` (seconds since 1970) below `folder`.

    Returns the names of the nodes that gave any. Nothing happens without Ray, and a node that does not answer in time
    is left out: the logs of a failure must not become another one.
    """
    if not is_up():
        return []
    import ray

    job = ray.get_runtime_context().get_job_id()
    own = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != own]
    found = [(own, socket.gethostname(), str(log_folder()), tails(log_folder(), job, since))]
    found += list(_of_nodes(others, job, since))
    given: list[str] = []
    seen: set[tuple[str, str]] = set()
    for node, host, place, files in found:
        if not files or (host, place) in seen:  # several nodes of one machine may share a folder
            continue
        seen.add((host, place))
        name = f"{host}-{node[:6]}"
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (folder / name / file).write_bytes(content)
        given.append(name)
    return given


def _of_nodes(nodes: list[dict[str, Any]], job: str, since: float) -> Iterator[tuple[str, str, str, Tails]]:
    """(node id, host, folder, tails) of the nodes that answer in time."""
    if not nodes:
        return
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(_here)
    asked = {}
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[ask.options(num_cpus=0, max_retries=0, scheduling_strategy=place).remote(job, since)] = node["NodeID"]
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=WAIT_S)
    for reference in ready:
        try:
            host, place, files = ray.get(reference)
        except RayError:  # the node went away
            continue
        yield asked[reference], host, place, files


def _here(job: str, since: float) -> tuple[str, str, Tails]:
    """As a task: host, folder and tails of the node that it runs on."""
    folder = log_folder()
    return socket.gethostname(), str(folder), tails(folder, job, since)


def tails(folder: Path | None, job: str, since: float) -> Tails:
    """The ends of one node's log files of a job and of its daemons, newest first until there is enough.

    job: Ray's id of it, which is part of its workers' file names. Empty files and those older than `since` are left
    out.
    """
    if folder is None or not folder.is_dir():
        return {}
    early = [path for path in folder.glob(f"worker-*-{NO_JOB}-*") if _is_of(path, job)]
    chosen = [*folder.glob(f"worker-*-{job}-*"), *early, *folder.glob("*/*.log"), *(folder / name for name in DAEMONS)]
    dated = []
    for path in chosen:
        try:
            status = path.stat()
        except OSError:  # rotated away, or never made
            continue
        if status.st_size and status.st_mtime >= since:
            dated.append((status.st_mtime, path))
    files: Tails = {}
    room = NODE_BYTES
    for _, path in sorted(dated, key=lambda pair: pair[0], reverse=True):
        content = _end_of(path, min(FILE_BYTES, room))
        files[path.relative_to(folder).as_posix().replace("/", "-")] = content
        room -= len(content)
        if room <= 0:
            break
    return files


def _is_of(path: Path, job: str) -> bool:
    """Whether a worker that was started before it had a job was given this one: Ray writes so into its file."""
    try:
        with path.open("rb") as file:
            return f":job_id:{job}".encode() in file.read(FILE_BYTES)
    except OSError:
        return False


def _end_of(path: Path, most: int) -> bytes:
    """The last `most` bytes of a file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most))
            return file.read(most)
    except OSError as error:
        return f"not readable: {error}\n".encode()
