"""Processes that are measured: each pinned to one core, one request a line, one answer a line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class Worker:
    """A process pinned to one core, or to none."""

    def __init__(self, command: Sequence[str], core: int | None) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})

    def send(self, request: dict[str, Any]) -> None:
        """Hands over work without waiting for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Waits for the answer. RuntimeError if the process died."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the benchmark's process died: {self._process.args!r}")
        return json.loads(line)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Hands over work and waits."""
        self.send(request)
        return self.receive()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


@contextmanager
def running(commands: Mapping[str, Sequence[str]], cores: Mapping[str, int]) -> Iterator[dict[str, Worker]]:
    """Workers by name, ended in any case."""
    workers: dict[str, Worker] = {}
    try:
        for name, command in commands.items():
            workers[name] = Worker(command, cores[name])
        yield workers
    finally:
        for worker in workers.values():
            worker.close()


def answer_requests(answer: Callable[[dict[str, Any]], Any]) -> None:
    """In such a process: answers requests until standard input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    for line in sys.stdin:
        os.write(answers, (json.dumps(answer(json.loads(line))) + "\n").encode())
