"""Run a training loop on Ray Train workers: one place for set-up, device, sharding and what happens when a worker
dies.

A loop keeps its own checkpoint in the stage's folder and starts from it, so a retry after any death, of a worker,
of a node, of the controller or of the driver, is the same thing as calling the stage again. What a step learns from
follows from (seed, step) alone, so on several nodes training is elastic: without a node it goes on with fewer workers,
and with more of them when a node returns. `pipelines/checkpoint_times.py` has it save in time when a node is to go.
"""

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from blm.cluster import nodes, ray_corners
from blm.cluster.asks import asked
from blm.cluster.ray_runtime import cause_of, log_folder
from blm.pipelines import checkpoint_times, fence
from blm.pipelines.workspace import ResourceConfig

ATTEMPTS = 5
"""Trainings that may be lost one after another without a checkpoint in between. Ray Train retries most losses itself,
but not that of a worker while its group starts."""
RESIZE_EVERY_S = 30.0
"""How often Ray Train sees whether there is room for more workers. A change starts from the last checkpoint."""
Parallel = Literal["ddp", "fsdp"]
T = TypeVar("T")


def fit(loop: Callable[[dict[str, Any]], None], config: dict[str, Any], out: Path, resources: ResourceConfig) -> None:
    """Run `loop(config)` on `resources.train_workers` workers, or on as many as there is room for. The first error that
    is not a lost worker is raised."""
    from ray.util import placement_group_table

    reserved = set(placement_group_table())
    config = config | {"fence": fence.claim(out)}
    lost = 0
    while True:
        checkpoint_times.forget(out)
        try:
            _trainer(loop, config, out, resources).fit()
            return
        except Exception as error:
            lost = 1 if checkpoint_times.saved(out) else lost + 1
            if cause_of(error) is not None or lost == ATTEMPTS:
                raise
            _release_all_but(reserved)
            _say(out, f"workers were lost ({type(error).__name__}); starting again")


def _trainer(
    loop: Callable[[dict[str, Any]], None], config: dict[str, Any], out: Path, resources: ResourceConfig
) -> Any:
    """A Ray Train trainer for the nodes that there are now."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = resources.device == "cuda"
    found = nodes.placed(asked("stage1", "trainer", device=resources.device))
    workers = _world(resources, found.room, several=nodes.several())
    most = workers if isinstance(workers, int) else workers[1]
    if most < resources.train_workers:
        _say(out, f"there is room for {most} of {resources.train_workers} training processes")
    threads = max(1, int(found.cpus) if found.kind else resources.num_cpus // most)
    return TorchTrainer(
        loop,
        train_loop_config=config | {"threads": threads, "training": str(out)},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=1800),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker=nodes.per_worker(found),
            elastic_resize_monitor_interval_s=RESIZE_EVERY_S,
        ),
        run_config=RunConfig(
            name=f"{out.name}-{uuid.uuid4().hex[:12]}",  # a name used before would resume Ray's own snapshot
            storage_path=str(_notes_folder()),
            failure_config=FailureConfig(max_failures=2),
        ),
    )


def _world(resources: ResourceConfig, room: int, *, several: bool) -> int | tuple[int, int]:
    """How many workers: a number, or on several nodes the least and the most of them."""
    most, least = resources.train_workers, resources.least_train_workers
    if several:
        return most if least >= most else (least, most)
    return max(1, min(most, room))


def _notes_folder() -> Path:
    """Where Ray Train keeps notes of its own. Nothing of ours is in them; every node has a folder of this name."""
    logs = log_folder()
    assert logs is not None, "Ray must be up"
    return logs.parent / "blm-training"


def _say(out: Path, text: str) -> None:
    print(f"[{out.name.partition('-')[0]}] {text}", flush=True)


def _release_all_but(kept: set[str]) -> None:
    """Give back placement groups that this driver has made since. Ray Train leaves that of a group whose worker died
    while it started, and the next attempt would wait for its CPUs for ever.
    """
    import ray
    from ray.util import placement_group_table, remove_placement_group

    job = ray.get_runtime_context().get_job_id()  # the end of the names of all that belongs to it
    for name, entry in placement_group_table().items():
        if name.endswith(job) and name not in kept and entry["state"] != "REMOVED":
            remove_placement_group(ray_corners.placement_group(name))


def prepare(config: dict[str, Any]) -> tuple[int, int, torch.device]:
    """(rank, world size, device) of this worker, with torch's threads set."""
    from ray.train.torch import get_device

    torch.set_num_threads(config["threads"])
    checkpoint_times.begin(Path(config["training"]))
    return dist.get_rank(), dist.get_world_size(), get_device()


def parallelise(
    module: nn.Module,
    parallel: Parallel,
    layers: list[nn.Module],
    *,
    forward_methods: Sequence[str] = (),
    sharded_precision: Literal["float32", "bfloat16"] = "float32",
) -> nn.Module:
    """Wrap for data parallelism: DDP (nothing on one worker), or FSDP2 sharding each of `layers` and then the rest.

    forward_methods: methods of `module` that, like its forward, need whole parameters. sharded_precision: in which
    FSDP2 computes on GPUs; its shards and the sums of gradients are float32 in any case.
    """
    if parallel == "fsdp":
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        on_gpu = next(module.parameters()).device.type == "cuda"
        policy = MixedPrecisionPolicy()
        if on_gpu and sharded_precision == "bfloat16":
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for layer in layers:
            fully_shard(layer, mp_policy=policy)
        fully_shard(module, mp_policy=policy)
        for name in forward_methods:
            register_fsdp_forward_method(module, name)
        return module
    if dist.get_world_size() == 1:
        return module
    return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)


def reshard(module: nn.Module) -> None:
    """Let go of whole parameters after a forward pass that no backward pass follows; FSDP2's root keeps them until
    then, and its parameters would be other tensors than those of the optimiser."""
    if hasattr(module, "reshard"):
        module.reshard()


def first_says(value: T) -> T:
    """Rank 0's value, which can be pickled, on every rank: where nodes have disks of their own, what lies on them may
    differ, and all must do the same."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def summed(values: torch.Tensor) -> torch.Tensor:
    """Their sum over all workers, on every worker; `values` stays."""
    whole = values.clone()
    if dist.get_world_size() > 1:
        dist.all_reduce(whole)
    return whole


def inner(module: nn.Module) -> nn.Module:
    """The module inside a DDP wrapper, or itself."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be sharded; collective if it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def full_state(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """Whole model and optimiser state on rank 0 whatever the sharding; called by every rank."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model_state, optimizer_state = get_state_dict(inner(module), optimizers, options=options)
    return {"model": model_state, "optimizer": optimizer_state}


def load_full_state(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], state: dict[str, Any]) -> None:
    """Give every rank its part of what `full_state` returned."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    options = StateDictOptions(full_state_dict=True)
    set_state_dict(
        inner(module),
        optimizers,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=options,
    )


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training checkpoint on rank 0, whole or not at all."""
    if dist.get_rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
        torch.save(state, temporary)
        os.replace(temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last training checkpoint, or None. Loaded without unpickling code."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True) if path.is_file() else None
