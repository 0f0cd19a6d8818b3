"""`blm serve upgrade`: another model in place of the one that is served, without a failed request.

blm serve upgrade --model runs/tiny/stage2-5e6f7a8b/model [--port 8000]

Every replica gets its successor beside it before it goes, and then goes only when its episodes have ended or `drain_s`
has passed. While that lasts there are twice as many of them. If the new model does not start, the old one stays.
"""

import argparse
import logging
import os
import time
from dataclasses import replace

from blm.cluster.ray_runtime import connect
from blm.model.errors import UserError
from blm.pipelines import serve_running
from blm.pipelines.serve_running import RunningServer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm serve upgrade`."""
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="the `model` folder to serve from now, or its address in a store"
    )
    parser.add_argument("--port", type=int, default=8000, help="port of the running server (default: %(default)s)")


def main(name: str, arguments: argparse.Namespace) -> int:
    """Roll out, and say so. UserError if there is no such server, or if the new model does not start."""
    server = serve_running.read(arguments.port)
    began = time.perf_counter()
    upgrade(server, arguments.model)
    print(f"[serve] now serving {arguments.model} at port {arguments.port}, after {time.perf_counter() - began:.0f} s")
    return 0


def upgrade(server: RunningServer, model: str) -> None:
    """Replace the model of a running server; returns when every replica has the new one."""
    from blm.serve.checkpoint import check_folder, fetched, full_name

    name = full_name(model)
    check_folder(fetched(name), with_policy=server.config.actions.enabled, with_chat=server.config.chat.enabled)
    os.environ |= server.environment
    if os.environ.get("BLM_RAY_LOGS") != "all":
        logging.disable(logging.ERROR)
    connect(num_cpus=0, address=server.address)
    from blm.pipelines.serve_start import run

    _check_room(server)
    print(f"[serve] starting {name} beside {server.model}", flush=True)
    try:
        run(name, server.config, server.device)
    except UserError as error:
        run(server.model, server.config, server.device)
        raise UserError(f"{error}; {server.model} is served as before") from error
    serve_running.write(replace(server, model=name))


def _check_room(server: RunningServer) -> None:
    """UserError if a second replica would wait for a GPU for ever."""
    import ray

    if server.device != "cuda":
        return
    config = server.config
    needed = config.model.num_gpus or (config.chat.tensor_parallel if config.chat.enabled else 1)
    free = ray.available_resources().get("GPU", 0.0)
    if free < needed:
        raise UserError(
            f"a new replica needs {needed:g} free GPU, and {free:g} is left; add a machine to the cluster, or stop"
            " the server and start it with the new model"
        )
