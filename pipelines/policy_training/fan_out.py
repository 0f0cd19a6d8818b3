"""Several models beside one another: each one a Ray task that trains alone, as many at once as there is room for.

A task that is lost with its process or node is started anew and goes on from its own checkpoint, as often as it takes
if it wrote one in between.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from blm.cluster import nodes
from blm.cluster.asks import asked
from blm.cluster.ray_runtime import cause_of
from blm.model.errors import UserError
from blm.pipelines import checkpoint_times, fence
from blm.pipelines.workspace import ResourceConfig

RETRIES = 3
"""How often Ray starts a lost task anew before this process hears of it."""
Run = Callable[[dict[str, Any], torch.device], None]


def fan_out(run: Run, configs: Sequence[dict[str, Any]], out: Path, resources: ResourceConfig) -> None:
    """Call `run(config, device)` for each of `configs` in a task of its own, in a process group of one.

    out: the stage's folder, which this driver takes over. UserError naming the model (`config["scope"]`) that raised
    one; the others are cancelled, and keep what they have.
    """
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

    ask = asked("stage2", "trainer", device=resources.device)

    def start(config: dict[str, Any]) -> ray.ObjectRef:
        checkpoint_times.forget(Path(config["folder"]))
        task = ray.remote(alone).options(max_retries=RETRIES, **nodes.options(ask))
        return task.remote(run, config | {"threads": 1}, resources.device)

    holder = fence.claim(out)
    running = {start(config): config for config in (one | {"fence": holder} for one in configs)}
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        config = running.pop(done)
        try:
            ray.get(done)
        except Exception as error:
            lost = isinstance(error, WorkerCrashedError | NodeDiedError | OutOfMemoryError)
            if lost and checkpoint_times.saved(Path(config["folder"])):
                running[start(config)] = config
                continue
            for other in running:
                ray.cancel(other, force=True)
            cause = cause_of(error)
            if cause is None:
                raise
            raise UserError(f"{config['scope']}: {cause}") from None


def alone(run: Run, config: dict[str, Any], device: str) -> None:
    """`run(config, device)` as the only member of a process group."""
    torch.set_num_threads(config["threads"])
    checkpoint_times.begin(Path(config["folder"]))
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{Path(folder) / 'store'}", rank=0, world_size=1)
        try:
            run(config, torch.device(device))
        finally:
            dist.destroy_process_group()
