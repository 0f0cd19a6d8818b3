"""Training checkpoints that every worker writes a part of, and that any number of workers can go on from.

    train/000150/progress.json     how far training was; plain data
    train/000150/*.distcp          tensors: trainable weights, optimiser state, averaged weights

`torch.distributed.checkpoint` writes them: of sharded tensors each worker its shards, of replicated ones each worker
a share. All write into a temporary folder, which the first worker renames when everybody is done, so a folder that has
its name is whole. What follows from the configuration (learning rates' schedule, frozen weights, row order, dropout)
is not stored.

Where nodes do not share their disks each worker puts its own files into the store, and once all have, the first one
`progress.json`: a folder that has it there is whole. Its name, `000150-1a2b3c`, was never used before, since a node may
still have files of an earlier attempt at the same step. The first worker says which checkpoint is gone on from.
"""

import os
import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines.fence import Fence, check
from blm.pipelines.workers import first_says
from blm.pipelines.workspace import read_json, write_json

PROGRESS = "progress.json"
TEMPORARY = ".tmp-checkpoint"
Tensors = dict[str, dict[str, Any]]


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that learn, by name; tied ones once. The tensors themselves, or this worker's shards of them."""
    return {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}


def save(
    folder: Path,
    step: int,
    progress: Mapping[str, Any],
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: Mapping[str, Tensor] | None = None,
    fence: Fence | None = None,
) -> None:
    """Write the checkpoint of `step` below `folder` and delete earlier ones. Called by every worker.

    progress: plain data, the same on every worker. average: averaged weights, if there are any. fence: whose training
    it is; UserError if another driver has taken it over.
    """
    tensors: Tensors = {
        "model": dict(trainable(module)),
        "optimizer": _optimizer_tensors(module, optimizers),
        "average": dict(average or {}),
    }
    token, first = first_says(uuid.uuid4().hex[:6]), dist.get_rank() == 0
    if depot.has_store():
        _save_in_store(folder / f"{step:06d}-{token}", progress, tensors, fence)
        return
    temporary = folder / f"{TEMPORARY}-{token}"  # another driver's workers may still be writing theirs
    if first:
        check(fence)
        for leftover in folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    _write(tensors, temporary)
    dist.barrier()
    if first:
        check(fence)
        write_json(temporary / PROGRESS, dict(progress))
        target = folder / f"{step:06d}"
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        for older in _whole(folder):
            if older != target:
                shutil.rmtree(older, ignore_errors=True)
    dist.barrier()  # nobody goes on, and dies, while the one before is still the last


def _save_in_store(target: Path, progress: Mapping[str, Any], tensors: Tensors, fence: Fence | None) -> None:
    """`save`, for disks that are not shared."""
    rank = dist.get_rank()
    target.mkdir(parents=True, exist_ok=True)
    _write(tensors, target)
    for path in sorted(target.glob(f"__{rank}_*")) + [target / ".metadata"] * (rank == 0):
        depot.keep(path)
    dist.barrier()  # every part is in the store
    if rank == 0:
        check(fence)
        write_json(target / PROGRESS, dict(progress))
        depot.keep(target / PROGRESS)
        for older in _others(target):
            depot.drop(older)
    dist.barrier()
    for older in _others(target):  # on the other nodes
        shutil.rmtree(older, ignore_errors=True)


def _others(checkpoint: Path) -> list[Path]:
    return [path for path in checkpoint.parent.glob("[0-9]*") if path != checkpoint]


def _write(tensors: Tensors, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # that this build of torch has no GPU
        dcp.save(tensors, checkpoint_id=folder)


def last(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from and its progress, the same on every worker; None if there is none. Called by every
    worker. UserError if its progress is damaged.

    folder: on this node, as for `save`. Where disks are not shared, the checkpoint is brought from the store.
    """
    found = None
    if dist.get_rank() == 0:
        if depot.has_store():
            _see_store(folder)
        newest = latest(folder)
        found = None if newest is None else (newest.name, read_progress(newest))
    found = first_says(found)
    return None if found is None else (depot.here(folder / found[0]), found[1])


def _see_store(folder: Path) -> None:
    """Have below `folder` what the store holds, and delete there what a killed attempt left incomplete."""
    for path in folder.glob(f"[0-9]*/{PROGRESS}"):
        path.unlink()  # of a checkpoint that never came to be whole, or is gone by now
    depot.here(folder)
    whole = _whole(folder)
    for path in folder.glob("[0-9]*"):
        if path not in whole:
            depot.drop(path)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint below `folder`, if there is one."""
    return max(_whole(folder), default=None)


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What `save` was given as progress. UserError if the file is damaged."""
    return read_json(checkpoint / PROGRESS)


def load(
    checkpoint: Path,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer] = (),
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Load in place, on as many workers and with whatever sharding there now is. Called by every worker.

    Without optimisers the weights alone are loaded. UserError if the checkpoint is of another model or optimiser.
    """
    reader = dcp.FileSystemReader(checkpoint)
    stored = set(reader.read_metadata().state_dict_metadata)
    tensors: Tensors = {"model": dict(trainable(module)), "average": dict(average or {})}
    if optimizers:
        for optimizer in optimizers:
            _fill_state(optimizer)
        _forget_unstored(module, optimizers, stored)
        tensors["optimizer"] = _optimizer_tensors(module, optimizers)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)
            dcp.load(tensors, storage_reader=reader)
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise UserError(
            f"the training checkpoint {checkpoint} cannot be continued from ({reason});"
            f" delete {checkpoint.parent} to train from the beginning"
        ) from error


def _whole(folder: Path) -> list[Path]:
    return [path for path in folder.glob("[0-9]*") if (path / PROGRESS).is_file()] if folder.is_dir() else []


def _optimizer_tensors(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, dict[str, Tensor]]:
    """State tensors by parameter name. Parameters that never had a gradient have no state."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        names[id(parameter)]: {key: value for key, value in state.items() if isinstance(value, Tensor)}
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
    }


def _fill_state(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimiser create its state for all parameters: a step with zero gradients at rate zero."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group["lr"], Tensor) else 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _forget_unstored(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], stored: set[str]) -> None:
    """Drop the state of parameters that had none when the checkpoint was written, as if they were still untouched."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for optimizer in optimizers:
        for parameter in list(optimizer.state):
            prefix = f"optimizer.{names[id(parameter)]}."
            if not any(prefix + key in stored for key in optimizer.state[parameter]):
                del optimizer.state[parameter]
