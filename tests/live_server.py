"""`blm serve` with everything in it, started once for all tests that ask a running server, and ended with them.

It takes a minute or two, most of it vLLM. Whoever uses `live_server` leaves it as it was: tests that kill, replace or
overrun a server start one of their own.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from small_server import Server, write_speaking_policy

from blm.cluster.ports import free_port

START_S = 420
LEAVE_S = 60


@contextmanager
def started(model: Path, folder: Path, words: Sequence[str] = ()) -> Iterator[Server]:
    """`blm serve` of a checkpoint on a free port, ready; with the block it ends, by Ctrl-C, and leaves nothing behind.

    words: more of its command line. folder: for its log.
    """
    port = free_port()
    log = folder / f"server-{port}.log"
    command = [str(Path(sys.executable).with_name("blm")), "serve", "--model", str(model), "--port", str(port), *words]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + START_S
        while "is ready at" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield Server(process=process, url=f"http://127.0.0.1:{port}", log=log)
        _end_well(process, log)
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


def _end_well(process: subprocess.Popen[bytes], log: Path) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    names = [f"sem.loky-{child.pid}-" for child in children]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=LEAVE_S) == 0
    assert log.read_text().splitlines()[-1] == "[serve] stopping"
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, [child.cmdline() for child in alive]
    assert not [path for path in Path("/dev/shm").iterdir() if path.name.startswith(tuple(names))]


@pytest.fixture(scope="session")
def live_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint folder with everything in it."""
    return write_speaking_policy(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def live_server(live_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The one server, with its defaults: conversation, actions, the playground, whatever front suits this machine."""
    with started(live_model, tmp_path_factory.mktemp("serve")) as server:
        yield server
