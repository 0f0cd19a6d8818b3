"""Run a training loop on Ray Train workers: one place for set-up, device, sharding and what happens when a worker
dies.

A loop keeps its own checkpoint in the stage's folder and starts from it, so a retry after any death, of a worker,
of the controller or of the driver, is the same thing as calling the stage again.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from blm.pipelines.workspace import ResourceConfig

ATTEMPTS = 3  # Ray Train does not retry a worker that dies while its group starts, so the whole fit is retried
Parallel = Literal["ddp", "fsdp"]


def fit(loop: Callable[[dict[str, Any]], None], config: dict[str, Any], out: Path, resources: ResourceConfig) -> None:
    """Run `loop(config)` on `resources.train_workers` workers. The first error that is not a lost worker is
    raised."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util import placement_group_table

    from blm.cluster.ray_runtime import cause_of

    gpu = resources.device == "cuda"
    threads = max(1, resources.num_cpus // resources.train_workers)
    trainer_state = out / "ray"
    reserved = set(placement_group_table())
    for attempt in range(1, ATTEMPTS + 1):
        trainer = TorchTrainer(
            loop,
            train_loop_config=config | {"threads": threads},
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=1800),
            scaling_config=ScalingConfig(
                num_workers=resources.train_workers,
                use_gpu=gpu,
                resources_per_worker={"CPU": 1, "GPU": 1} if gpu else {"CPU": 1},
            ),
            run_config=RunConfig(
                name=f"attempt-{os.getpid()}-{attempt}",  # a name used before would resume Ray's own snapshot
                storage_path=str(trainer_state.resolve()),
                failure_config=FailureConfig(max_failures=2),
            ),
        )
        try:
            trainer.fit()
            return
        except Exception as error:
            if cause_of(error) is not None or attempt == ATTEMPTS:
                raise
            _release_all_but(reserved)
            print(
                f"[{out.name.partition('-')[0]}] workers were lost ({type(error).__name__}); starting again", flush=True
            )


def _release_all_but(kept: set[str]) -> None:
    """Give back placement groups made since. Ray Train leaves that of a group whose worker died while it started, and
    the next attempt would wait for its CPUs for ever.
    """
    from ray._raylet import PlacementGroupID
    from ray.util import placement_group_table, remove_placement_group
    from ray.util.placement_group import PlacementGroup

    for name, entry in placement_group_table().items():
        if name not in kept and entry["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def prepare(config: dict[str, Any]) -> tuple[int, int, torch.device]:
    """(rank, world size, device) of this worker, with torch's threads set."""
    from ray.train.torch import get_device

    torch.set_num_threads(config["threads"])
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


def agree(due: bool) -> bool:
    """Rank 0's opinion, on every rank: clocks differ, and saving is collective."""
    flag = torch.tensor(int(due), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.broadcast(flag, src=0)
    return bool(flag)


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
