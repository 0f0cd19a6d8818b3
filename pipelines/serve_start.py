"""Starting and stopping the served application on a Ray cluster, for `blm serve`, its upgrades and `serve deploy`."""

import contextlib
import io
import math
import os
import re
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blm.cluster.ray_runtime import LOCAL_ENVIRONMENT, cause_of, disconnect, log_folder, set_environment
from blm.model.errors import UserError
from blm.pipelines import interrupt
from blm.serve.config import APPLICATION, ServeConfig
from blm.serve.front import CHOICE, Front, choose, environment

WORKERS = {
    "RAY_worker_niceness": "0",  # by default Ray's workers yield to everything else on the machine
    "TRANSFORMERS_VERBOSITY": "error",  # its warnings look like progress, and would reach the console
}
"""Settings of the replicas' processes."""
LEAVE_S = 6.0
"""How long requests that run may take when the server is stopped, and processes afterwards."""
SPARE_CPUS = 2
"""Ray's CPUs are admission tickets; the playground and Ray Serve's own actors take some."""
_NAMED_ERROR = re.compile(r"\s*[\w.]*(Error|Exception): \S")


def prepare(config: ServeConfig, *, joins: bool) -> tuple[Front, dict[str, str]]:
    """Tell Ray, before it is imported, how to serve. Returns the front, and the environment that everybody must have
    who talks to this cluster. joins: whether it runs already, with an environment of its own.

    UserError for a front that cannot be had.
    """
    from blm.serve.guard import connection as guard_connection

    front = choose(config, joins=joins)
    if joins:
        return front, {}
    said = environment(front, config) | guard_connection.environment(config.guard) | WORKERS | LOCAL_ENVIRONMENT
    os.environ[CHOICE] = said[CHOICE]
    set_environment(said)  # what the user has set already stays
    return front, {name: os.environ[name] for name in said}


def bound(folder: Path | str, config: ServeConfig, device: str) -> Any:
    """The application, with the playground if it has one."""
    from blm.serve.app import build_app

    if not (config.playground.enabled and config.actions.enabled):
        return build_app(folder, config, device)
    from blm.pipelines.playground import playground
    from blm.serve.checkpoint import fetched

    return build_app(folder, config, device, [playground(fetched(str(folder)), config)])


def run(folder: Path | str, config: ServeConfig, device: str) -> None:
    """Run the application on the Ray that is connected, in place of the one that may be there; returns once every
    replica is ready.

    UserError with the reason if a part does not start.
    """
    from ray import serve as ray_serve

    application = bound(folder, config, device)
    interrupt.install()  # Ray has put its own handlers in place
    try:
        ray_serve.start(http_options={"host": config.host, "port": config.port})
        ray_serve.run(application, name=APPLICATION, route_prefix="/")
    except Exception as error:
        raise UserError(why_not(error, _messages())) from error


def logical_cpus(config: ServeConfig) -> int:
    """How many CPUs a local Ray must offer for all replicas there may be, their successors in an upgrade included."""
    control = config.control.max * config.control.num_cpus if config.has_control else 0
    return math.ceil(2 * (config.model.max * config.model.num_cpus + control)) + SPARE_CPUS


def why_not(error: Exception, messages: Sequence[str]) -> str:
    """One line on why the server did not start.

    messages: what Ray Serve says of each part; a replica's traceback is in there, and nowhere in the exception.
    """
    for text in messages:
        cause = cause_of(RuntimeError(text))
        if cause is not None:
            return str(cause)
    ends = [line for text in messages for line in text.strip().splitlines() if _NAMED_ERROR.match(line)]
    last = ends[-1] if ends else (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return f"the server did not start: {last.strip()[:300]} (more in {log_folder()}/serve)"


def _messages() -> list[str]:
    """What Ray Serve says of the parts that are not well."""
    from ray import serve as ray_serve

    application = ray_serve.status().applications.get(APPLICATION)
    return [part.message for part in application.deployments.values() if part.message] if application else []


def stop() -> None:
    """Let running requests end, for a moment, then take down the application and the Ray that we started, with every
    process in it. Deaf to further Ctrl-C."""
    import psutil
    import ray

    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    held = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    ours = psutil.Process().children(recursive=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Ray tells of actors that it was told to kill
            if ray.is_initialized():
                _end_application()
            disconnect()
        # HAProxy and vLLM's processes are children of actors, and some outlive them.
        _, alive = psutil.wait_procs(ours, timeout=LEAVE_S)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


def _end_application() -> None:
    """Ask Ray Serve to end everything, and wait a moment: replicas would wait for open episodes, up to `drain_s`."""
    from ray.exceptions import RayError
    from ray.serve.context import _get_global_client  # `ray.serve.shutdown` takes no time limit
    from ray.serve.exceptions import RayServeException

    with contextlib.suppress(RayServeException, RayError):
        _get_global_client().shutdown(timeout_s=LEAVE_S)


def gpus() -> int:
    """GPUs of this machine that PyTorch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def children() -> list[int]:
    """Process ids of everything this server runs on this machine, if it started Ray itself."""
    import psutil

    return [child.pid for child in psutil.Process().children(recursive=True)]


def shared_memory(pids: Sequence[int]) -> set[Path]:
    """Shared-memory files of processes: vLLM's workers are killed in the end and leave some behind."""
    found = {path for pid in pids for path in Path("/dev/shm").glob(f"sem.loky-{pid}-*")}
    for pid in pids:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text()
            found |= {Path(line.split()[5]) for line in maps.splitlines() if " /dev/shm/psm_" in line}
    return found
