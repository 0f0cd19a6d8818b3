"""What a running `blm serve` leaves for other commands of the same user: where its Ray is, and what it serves.

One small file a port, in a folder that nobody else may read; it goes when the server does.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from blm.model.errors import UserError
from blm.model.user_folder import user_folder
from blm.pipelines.schema import build
from blm.pipelines.serve_config_file import plain
from blm.serve.config import ServeConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningServer:
    """A server that runs."""

    pid: int
    """Process of `blm serve`."""
    address: str
    """Of its Ray cluster."""
    environment: Mapping[str, str]
    """What Ray was told by environment variables; whoever joins must say the same."""
    model: str
    """The folder that is served, or its address in a store."""
    device: str
    """`cpu` or `cuda`."""
    config: ServeConfig
    """Its configuration, keys as digests."""


def folder() -> Path:
    """Where the files lie."""
    return user_folder("blm-serve")


def write(server: RunningServer) -> Path:
    """Leave word of a server; returns the file."""
    file = folder() / f"{server.config.port}.json"
    body = {
        "pid": server.pid,
        "address": server.address,
        "environment": dict(server.environment),
        "model": server.model,
        "device": server.device,
        "config": plain(server.config),
    }
    waiting = file.with_suffix(f".{os.getpid()}")
    waiting.write_text(json.dumps(body))
    waiting.chmod(0o600)
    waiting.replace(file)
    return file


@contextmanager
def announced(server: RunningServer) -> Iterator[None]:
    """Leave word for the time of the body."""
    file = write(server)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def read(port: int) -> RunningServer:
    """The server at a port of this machine. UserError if this user runs none there."""
    file = folder() / f"{port}.json"
    try:
        body: dict[str, Any] = json.loads(file.read_text())
        server = RunningServer(
            pid=int(body["pid"]),
            address=str(body["address"]),
            environment=body["environment"],
            model=str(body["model"]),
            device=str(body["device"]),
            config=build(ServeConfig, body["config"], where=str(file)),
        )
    except FileNotFoundError:
        raise UserError(_nobody(port)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({type(error).__name__}); stop and start the server") from error
    if not psutil.pid_exists(server.pid):
        file.unlink(missing_ok=True)
        raise UserError(_nobody(port))
    return server


def _nobody(port: int) -> str:
    others = sorted(file.stem for file in folder().glob("*.json"))
    there = f"; there is one at port {', '.join(others)} (--port)" if others else "; start one with `blm serve`"
    return f"you run no server at port {port} of this machine{there}"
