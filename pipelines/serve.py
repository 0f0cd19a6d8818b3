"""`blm serve`: the trained model over HTTP, conversation and actions on one port.

blm serve --model runs/tiny/stage2-1a2b3c4d/model [--port 8000] [--host 127.0.0.1] [--config serve.yaml] [--chat-only]
"""

import argparse
import contextlib
import errno
import io
import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from blm.cluster.ray_runtime import cause_of, connect, disconnect, log_folder
from blm.model.errors import UserError
from blm.pipelines import interrupt
from blm.pipelines.schema import build, parse_yaml
from blm.serve.config import SERVED_NAME, ServeConfig

APPLICATION = "blm"
_NAMED_ERROR = re.compile(r"\s*[\w.]*(Error|Exception): \S")
LOGICAL_CPUS = 4
"""Ray's CPUs are admission tickets; the parts of the server need so many however few cores there are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm serve`."""
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="the `model` folder of a finished stage2"
    )
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port of everything (default: 8000)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with the options of blm.serve.config")
    parser.add_argument("--chat-only", action="store_true", help="no policy: any Qwen2.5-VL folder will do")
    parser.add_argument("--address", metavar="ADDRESS", help="join this Ray cluster instead of starting one")


def serve(arguments: argparse.Namespace) -> int:
    """Start the server, say where it is, stay until Ctrl-C or SIGTERM, and take everything down again."""
    config = configured(arguments)
    folder = arguments.model.expanduser().resolve()
    from blm.serve.checkpoint import check_folder

    check_folder(folder, with_policy=config.actions.enabled)
    check_port(config.host, config.port)
    began = time.perf_counter()
    _say(f"starting {SERVED_NAME} from {arguments.model}; this takes a minute or two on a CPU")
    if os.environ.get("BLM_RAY_LOGS") != "all":
        logging.disable(logging.ERROR)  # Ray Serve and vLLM speak to the driver's console in JSON
    left_behind: set[Path] = set()
    try:
        connect(num_cpus=max(os.cpu_count() or 1, LOGICAL_CPUS), num_gpus=_gpus(), address=arguments.address)
        start(folder, config)
        left_behind = _shared_memory(_children())
        _say(ready_text(config, seconds=time.perf_counter() - began))
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        _say("stopping")
    finally:
        stop()
        for path in left_behind:
            path.unlink(missing_ok=True)
    return 0


def configured(arguments: argparse.Namespace) -> ServeConfig:
    """The configuration: defaults, then the file, then the command line."""
    config = ServeConfig()
    if arguments.config is not None:
        try:
            text = arguments.config.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"configuration {arguments.config} cannot be read ({error})") from error
        config = build(ServeConfig, parse_yaml(text, where=str(arguments.config)) or {}, where=str(arguments.config))
    if arguments.host is not None:
        config = replace(config, host=arguments.host)
    if arguments.port is not None:
        config = replace(config, port=arguments.port)
    if arguments.chat_only:
        config = replace(config, actions=replace(config.actions, enabled=False))
    return config


def check_port(host: str, port: int) -> None:
    """UserError unless this process may listen there. Ray is not asked: its proxies would share a port in silence."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        reason = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise UserError(f"cannot listen on {host} port {port}: {reason}; choose another with --port") from error


def start(folder: Path, config: ServeConfig) -> None:
    """Run the application on the Ray that is connected; returns once every part is ready.

    UserError with the reason if a part does not start.
    """
    from ray import serve as ray_serve

    from blm.serve.app import build_app

    device = config.device if config.device != "auto" else ("cuda" if _gpus() else "cpu")
    application = build_app(folder, config, device)
    interrupt.install()  # Ray has put its own handlers in place
    try:
        ray_serve.start(http_options={"host": config.host, "port": config.port})
        ray_serve.run(application, name=APPLICATION, route_prefix="/")
    except Exception as error:
        raise UserError(why_not(error, _messages())) from error


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
    """Let running requests end, then take down the application and the Ray that we started. Deaf to further Ctrl-C."""
    import ray

    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    held = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Ray tells of actors that it was told to kill
            if ray.is_initialized():
                from ray import serve as ray_serve

                ray_serve.shutdown()
            disconnect()
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


def ready_text(config: ServeConfig, *, seconds: float) -> str:
    """What a person needs to know once it runs."""
    url = f"http://{config.host}:{config.port}"
    body = json.dumps({"model": SERVED_NAME, "messages": [{"role": "user", "content": "What can you do?"}]})
    lines = [
        f"{SERVED_NAME} is ready at {url} after {seconds:.0f} s; Ctrl-C stops it",
        f"  chat:     curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'",
    ]
    if config.actions.enabled:
        lines.append(f"  actions:  POST {url}/v1/actions  (its fields: {url}/docs)")
    lines.append(f"  health:   {url}/health")
    return "\n".join(lines)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _children() -> list[int]:
    """Process ids of everything this server runs on this machine, if it started Ray itself."""
    import psutil

    return [child.pid for child in psutil.Process().children(recursive=True)]


def _shared_memory(pids: Sequence[int]) -> set[Path]:
    """Shared-memory files of processes: vLLM's workers are killed in the end and leave some behind."""
    found = {path for pid in pids for path in Path("/dev/shm").glob(f"sem.loky-{pid}-*")}
    for pid in pids:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text()
            found |= {Path(line.split()[5]) for line in maps.splitlines() if " /dev/shm/psm_" in line}
    return found


def _say(text: str) -> None:
    print(f"[serve] {text}", flush=True)
