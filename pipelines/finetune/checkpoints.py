"""Training checkpoints that every worker writes a part of, and that any number of workers can go on from.

    train/000150/progress.json     how far training was; plain data
    train/000150/*.distcp          tensors: trainable weights, optimiser state, averaged weights

`torch.distributed.checkpoint` writes them: of sharded tensors each worker its shards, of replicated ones each worker
a share. All write into a temporary folder, which the first worker renames when everybody is done, so a folder that has
its name is whole. What follows from the configuration (learning rates' schedule, frozen weights, row order, dropout)
is not stored.
"""

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from blm.model.errors import UserError
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
) -> None:
    """Write the checkpoint of `step` below `folder` and delete earlier ones. Called by every worker.

    progress: plain data, the same on every worker. average: averaged weights, if there are any.
    """
    temporary, first = folder / TEMPORARY, dist.get_rank() == 0
    if first:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    tensors: Tensors = {
        "model": dict(trainable(module)),
        "optimizer": _optimizer_tensors(module, optimizers),
        "average": dict(average or {}),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # that this build of torch has no GPU
        dcp.save(tensors, checkpoint_id=temporary)
    dist.barrier()
    if first:
        write_json(temporary / PROGRESS, dict(progress))
        target = folder / f"{step:06d}"
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        for older in _whole(folder):
            if older != target:
                shutil.rmtree(older, ignore_errors=True)
    dist.barrier()  # nobody goes on, and dies, while the one before is still the last


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
