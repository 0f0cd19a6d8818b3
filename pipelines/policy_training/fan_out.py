"""Several models beside one another: each one a Ray task that trains alone, as many at once as there is room for.

A task that is lost with its process or node is started anew and goes on from its own checkpoint.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from blm.model.errors import UserError
from blm.pipelines.workspace import ResourceConfig

RETRIES = 3
Run = Callable[[dict[str, Any], torch.device], None]


def fan_out(run: Run, configs: Sequence[dict[str, Any]], resources: ResourceConfig) -> None:
    """Call `run(config, device)` for each of `configs` in a task of its own, in a process group of one.

    UserError naming the model (`config["scope"]`) that raised one; the others are cancelled, and keep what they have.
    """
    import ray

    from blm.cluster.ray_runtime import cause_of

    gpu = resources.device == "cuda"
    task = ray.remote(alone).options(num_cpus=1, num_gpus=1 if gpu else 0, max_retries=RETRIES)
    running = {
        task.remote(run, config | {"threads": 1}, "cuda" if gpu else "cpu"): str(config["scope"]) for config in configs
    }
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        scope = running.pop(done)
        try:
            ray.get(done)
        except Exception as error:
            for other in running:
                ray.cancel(other, force=True)
            cause = cause_of(error)
            if cause is None:
                raise
            raise UserError(f"{scope}: {cause}") from None


def alone(run: Run, config: dict[str, Any], device: str) -> None:
    """`run(config, device)` as the only member of a process group."""
    torch.set_num_threads(config["threads"])
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{Path(folder) / 'store'}", rank=0, world_size=1)
        try:
            run(config, torch.device(device))
        finally:
            dist.destroy_process_group()
