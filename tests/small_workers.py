"""Several training workers on this machine, without Ray: processes in one gloo group.

The processes are kept from call to call: what they have imported, which takes longer than most tests' training, is
imported once. Each call makes a process group of its own. After an error they are replaced.
"""

import multiprocessing
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

TIMEOUT_S = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A process, and the way to talk to it."""

    process: BaseProcess
    connection: Connection


_kept: list[Worker] = []


def on_workers(function: Callable[..., None], world: int, *arguments: Any) -> None:
    """Call `function(*arguments)` in `world` processes; the first error in one of them is raised."""
    while len(_kept) < world:
        _kept.append(_start())
    working = _kept[:world]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for rank, worker in enumerate(working):
                worker.connection.send((function, rank, world, f"file://{folder}/store", arguments))
            _wait_for(working)
    except BaseException:
        _discard()
        raise


def _wait_for(working: list[Worker]) -> None:
    """Until all are done. RuntimeError with the first one's traceback, or if one died or took too long."""
    waiting = {worker.connection: worker for worker in working}
    while waiting:
        ready = wait(list(waiting), timeout=TIMEOUT_S)
        if not ready:
            raise RuntimeError(f"workers have not ended after {TIMEOUT_S} s")
        for connection in ready:
            worker = waiting.pop(connection)  # type: ignore[call-overload]
            try:
                error = worker.connection.recv()
            except EOFError:
                raise RuntimeError(f"worker {worker.process.pid} died") from None
            if error is not None:
                raise RuntimeError(error)


def _start() -> Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    root = str(Path(__file__).parent.parent)
    sys.path.append(root)  # the new process gets this path, and finds functions of tests in this folder by it
    try:
        process = context.Process(target=_serve, args=(there,), daemon=True)
        process.start()
    finally:
        sys.path.remove(root)
    there.close()
    return Worker(process=process, connection=here)


def _discard() -> None:
    """End all processes: the others wait for one that failed."""
    for worker in _kept:
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
    _kept.clear()


def _serve(connection: Connection) -> None:
    """In a worker: answer every call with None or a traceback."""
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            function, rank, world, store, arguments = connection.recv()
        except EOFError:
            return
        try:
            _enter(function, rank, world, store, arguments)
        except BaseException:
            connection.send(traceback.format_exc())
        else:
            connection.send(None)


def _enter(function: Callable[..., None], rank: int, world: int, store: str, arguments: tuple[Any, ...]) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    try:
        function(*arguments)
    finally:
        dist.destroy_process_group()
