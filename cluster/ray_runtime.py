"""Start Ray on this machine, or join a cluster that runs: the one place where Ray is configured.

Ray reads most of its settings from the environment when it is imported, so `connect` sets them first. It also keeps
the console for the pipeline's own words: what libraries and worker processes log stays in the Ray session's folder,
except for lines that workers print as progress (`[stage] text`). BLM_RAY_LOGS=all shows everything.
"""

import errno
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blm.cluster import joining, ray_corners
from blm.model.errors import UserError

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # the newer Parquet reader was ten times slower on few cores
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # every train.report waits for this poll; the default is 2 s
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line of a training worker twice
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",  # for so long a lost node's place is waited for; the default is 60
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
    "RAY_DATA_LOGGING_CONFIG": str(Path(__file__).with_name("ray_data_logging.yaml")),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers without a GPU keep CUDA_VISIBLE_DEVICES as it is
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # libraries' progress bars; stages have words of their own
    "PYTHONWARNINGS": "ignore",  # deprecation notices of libraries, once a worker process
}
"""Settings for the driver and, through Ray, for every worker. What the user has set already stays."""

DISK_FULL = ("No space left on device", "database or disk is full")
"""How libraries that lose the error number say that the disk is full."""

LOCAL_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",  # a cluster of one process tree on loopback needs no token
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # Ray's C++ core writes to the driver's standard error
}
"""Settings for a cluster that we start; one that runs already has its own."""

WARNING_START = 80
"""Warnings of Ray that agree in so many characters are one."""
PROGRESS = re.compile(r"\[[a-z][a-z0-9_]*\] ")
"""How a line of progress begins, in the driver and in workers."""


def connect(
    *, num_cpus: int, num_gpus: int = 0, object_store_gb: float = 1.0, address: str | None = None
) -> dict[str, Any]:
    """Start a local Ray, or join the cluster at `address` (`auto`: the one on this machine). Returns the cluster's
    resources.

    num_cpus, num_gpus: what a local Ray offers; logical, so more than the machine has is allowed. Ignored when
    joining. address: `auto`, `local` or HOST:PORT; also taken from RAY_ADDRESS, which Ray sets for submitted jobs.
    Connecting twice is harmless. Raises UserError for an address that cannot be reached, and for Ray Client addresses.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    local = address in (None, "local")
    if not local:
        joining.check_address(str(address))
    set_environment(LOCAL_ENVIRONMENT if local else {})
    warnings.filterwarnings("ignore", module=r"ray\..*")
    import ray

    if not ray.is_initialized():
        if os.environ.get("BLM_RAY_LOGS") != "all":
            _show_only_progress()
        common: dict[str, Any] = {"logging_level": logging.ERROR, "configure_logging": True, "log_to_driver": True}
        if local:
            with _held_stderr():  # Ray announces the log level it was given
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    num_gpus=num_gpus,
                    object_store_memory=int(object_store_gb * 2**30),
                    include_dashboard=False,  # a gigabyte of memory for pages nobody looks at
                    **common,
                )
        else:
            joining.join(str(address), ENVIRONMENT, common)
    return ray.cluster_resources()


@contextmanager
def connected(
    *, num_cpus: int, num_gpus: int = 0, object_store_gb: float = 1.0, address: str | None = None
) -> Iterator[None]:
    """`connect` for the time of the body. A Ray that was up before stays up."""
    had_ray = is_up()
    connect(num_cpus=num_cpus, num_gpus=num_gpus, object_store_gb=object_store_gb, address=address)
    try:
        yield
    finally:
        if not had_ray:
            disconnect()


def set_environment(more: Mapping[str, str] | None = None) -> None:
    """Set what is not set yet. Libraries read it when they are imported: a command calls this before it imports any."""
    for name, value in (ENVIRONMENT | dict(more or {})).items():
        os.environ.setdefault(name, value)


def _show_only_progress() -> None:
    """Of what worker processes and Ray's daemons say, show the driver's reader progress and short warnings, each once.

    Tracebacks are left out: an exception reaches the driver by itself.
    """
    warned: set[str] = set()

    def show(batch: dict[str, Any], ignore_prefix: bool = False) -> None:
        for line in batch["lines"]:
            if PROGRESS.match(line):
                print(line, flush=True)
            elif batch.get("pid") == "raylet" and "ip" not in batch and "Traceback" not in line:  # no log file's line
                warning = line.splitlines()[0]
                if warning[:WARNING_START] not in warned:  # a lost actor is asked again, and told of, every second
                    warned.add(warning[:WARNING_START])
                    print(f"[ray] {warning[:300]}", flush=True)

    ray_corners.forward_with(show)


@contextmanager
def _held_stderr() -> Iterator[None]:
    """Keep back what native code writes to standard error, unless the body fails."""
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        real = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(real, 2)
            kept.seek(0)
            sys.stderr.write(kept.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)


def log_folder() -> Path | None:
    """Where this Ray session's workers log, or None without a session."""
    if not is_up():
        return None
    folder = ray_corners.session_folder()
    return folder / "logs" if folder else None


def is_up() -> bool:
    """Whether this process is connected to Ray; does not import it."""
    initialized = getattr(sys.modules.get("ray"), "is_initialized", None)  # absent while another thread imports Ray
    return initialized is not None and bool(initialized())


def disconnect() -> None:
    """Stop the local Ray, or leave the cluster. Harmless if there is none."""
    if is_up():
        sys.modules["ray"].shutdown()


def cause_of(error: BaseException) -> UserError | None:
    """The UserError at the bottom of what Ray wraps round an exception of a worker, or None if there is none.

    Ray hands over a worker's exception as RayTaskError.cause, a training worker's in
    WorkerGroupError.worker_failures, and Ray Data's only as `__cause__` text: exceptions lose that link on their way
    between processes.
    """
    for current in _chain(error):
        if isinstance(current, UserError) and not isinstance(getattr(current, "cause", None), UserError):
            return current
    return _from_traceback(str(error))


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk is behind an exception, in this process or a worker."""
    return any(
        getattr(current, "errno", None) == errno.ENOSPC or any(words in str(current) for words in DISK_FULL)
        for current in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and everything that it wraps or came from, each once."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [getattr(current, "cause", None), current.__cause__, getattr(current, "_base_exc", None)]
        waiting += [getattr(current, "controller_failure", None)]
        waiting += list(getattr(current, "worker_failures", {}).values())
        waiting += [current.__context__]


def _from_traceback(text: str) -> UserError | None:
    """The UserError that a printed traceback ends in, for wrappers that keep nothing but text."""
    marker = f"{UserError.__module__}.{UserError.__name__}: "
    for line in text.splitlines():
        if line.strip().startswith(marker):
            return UserError(line.strip().removeprefix(marker))
    return None
