"""`blm serve`: the trained model over HTTP and WebSockets, conversation and actions on one port.

blm serve --model runs/tiny/stage2-1a2b3c4d/model [--port 8000] [--host 127.0.0.1] [--config serve.yaml] [--chat-only]
blm serve --model ... --config serve.yaml --write-config blm.yaml     a file for `serve deploy`; nothing is started
blm serve upgrade --model ...                                         another model, while the server runs
"""

import argparse
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from blm.cluster.ray_runtime import connect
from blm.model.errors import UserError
from blm.pipelines.schema import build, parse_yaml
from blm.pipelines.serve_start import children, gpus, logical_cpus, prepare, run, shared_memory, stop
from blm.serve.config import SERVED_NAME, ServeConfig
from blm.serve.front import discard


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm serve`."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR",
        help="the `model` folder of a finished stage2, or its address in a store (s3://...)",
    )
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port of everything (default: 8000)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with the options of blm.serve.config")
    parser.add_argument("--chat-only", action="store_true", help="no policy: any Qwen2.5-VL folder will do")
    parser.add_argument("--address", metavar="ADDRESS", help="join this Ray cluster instead of starting one")
    parser.add_argument(
        "--write-config", type=Path, metavar="FILE", help="write the file that `serve deploy` takes, and end"
    )


def serve(arguments: argparse.Namespace) -> int:
    """Start the server, say where it is, stay until Ctrl-C or SIGTERM, and take everything down again."""
    config = configured(arguments)
    from blm.serve.checkpoint import check_folder, fetched, full_name
    from blm.serve.guard.keys import resolve
    from blm.serve.policy_server import open_socket

    model = full_name(arguments.model)
    check_folder(fetched(model), with_policy=config.actions.enabled, with_chat=config.chat.enabled)
    config = replace(config, guard=resolve(config.guard, host=config.host))
    device = config.device if config.device != "auto" else ("cuda" if gpus() else "cpu")
    if arguments.write_config is not None:
        return write_config(arguments.write_config, model, config, device)
    open_socket(config.host, config.port).close()  # Ray is not asked: its proxies would share a port in silence
    began = time.perf_counter()
    _say(f"starting {SERVED_NAME} from {arguments.model}; this takes a minute or two on a CPU")
    if os.environ.get("BLM_RAY_LOGS") != "all":
        logging.disable(logging.ERROR)  # Ray Serve and vLLM speak to the driver's console in JSON
    environment: dict[str, str] = {}
    try:
        front, environment = prepare(config, joins=bool(arguments.address))
        connect(num_cpus=logical_cpus(config), num_gpus=gpus(), address=arguments.address)
        run(model, config, device)
        _say(ready_text(config, front=front, seconds=time.perf_counter() - began))
        with _announced(model, config, device, environment):
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        _say("stopping")
    finally:
        left_behind = shared_memory(children())
        stop()
        for path in left_behind:
            path.unlink(missing_ok=True)
        discard(environment)
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
        config = replace(config, actions=replace(config.actions, enabled=False, apart=False))
    return config


def write_config(file: Path, model: str, config: ServeConfig, device: str) -> int:
    """Write the file that `serve deploy` takes, and say what to do with it."""
    from blm.pipelines.serve_config_file import config_file

    text = config_file(model, config, device, name=file.name)
    waiting = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        waiting.write_text(text)
        waiting.replace(file)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror or error}); name another place") from error
    _say(f"wrote {file}; on a cluster with blm on every node: serve deploy {file}")
    return 0


def ready_text(config: ServeConfig, *, front: str, seconds: float) -> str:
    """What a person needs to know once it runs."""
    host = config.host if config.host not in ("0.0.0.0", "::") else socket.gethostname()
    url = f"http://{host}:{config.port}"
    keys = " -H 'Authorization: Bearer KEY'" if config.guard.key_hashes or config.guard.key_file else ""
    body = json.dumps({"model": SERVED_NAME, "messages": [{"role": "user", "content": "What can you do?"}]})
    lines = [f"{SERVED_NAME} is ready at {url} after {seconds:.0f} s ({front} in front); Ctrl-C stops it"]
    if config.chat.enabled:
        lines.append(
            f"  chat:     curl {url}/v1/chat/completions{keys} -H 'Content-Type: application/json' -d '{body}'"
        )
    if config.actions.enabled:
        lines.append(f"  actions:  POST {url}/v1/actions  (its fields: {url}/docs); robots: ws://{host}:{config.port}")
        if config.playground.enabled:
            lines.append(f"  look:     {url}/playground")
    lines.append(f"  health:   {url}/health")
    return "\n".join(lines)


@contextlib.contextmanager
def _announced(model: str, config: ServeConfig, device: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Word of this server for `blm serve upgrade`, for the time of the body."""
    import ray

    from blm.pipelines.serve_running import RunningServer, announced

    server = RunningServer(
        pid=os.getpid(),
        address=ray.get_runtime_context().gcs_address,
        environment=environment,
        model=model,
        device=device,
        config=config,
    )
    with announced(server):
        yield


def _say(text: str) -> None:
    print(f"[serve] {text}", flush=True)
