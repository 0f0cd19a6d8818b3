"""Several training workers on this machine, without Ray: processes in one gloo group."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def on_workers(function: Callable[..., None], world: int, *arguments: Any) -> None:
    """Call `function(*arguments)` in `world` processes; the first error in one of them is raised."""
    root = str(Path(__file__).parent.parent)
    sys.path.append(root)  # new processes get this path, and find `function` in this folder by it
    try:
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(_enter, (function, world, f"file://{folder}/store", arguments), nprocs=world)
    finally:
        sys.path.remove(root)


def _enter(rank: int, function: Callable[..., None], world: int, store: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    function(*arguments)
    dist.destroy_process_group()
