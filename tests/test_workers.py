"""Training workers on Ray Train: what happens when one dies at its start, and sharded parameters."""

import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
import torch.distributed as dist
from small_workers import on_workers

from blm.model.optim import make_optimizers
from blm.pipelines import workers
from blm.pipelines.workspace import ResourceConfig

STEPS = 6


def kill_first_worker(killed: list[int]) -> None:
    """SIGKILL a training worker of this process's Ray as soon as there is one."""
    for _ in range(1200):
        for process in psutil.process_iter(["pid", "cmdline"]):
            if "ray::RayTrainWorker" in " ".join(process.info["cmdline"] or ()):
                process.kill()
                killed.append(process.info["pid"])
                return
        time.sleep(0.05)


def test_a_worker_that_dies_while_its_group_starts_is_replaced(ray_cluster, tmp_path):
    done = tmp_path / "done"

    def loop(config: dict[str, Any]) -> None:
        time.sleep(0.5)
        Path(config["done"]).write_text("yes")

    killed: list[int] = []
    killer = threading.Thread(target=kill_first_worker, args=(killed,))
    killer.start()
    workers.fit(loop, {"done": str(done)}, tmp_path, ResourceConfig())
    killer.join()
    assert killed
    assert done.read_text() == "yes"
    for _ in range(100):  # nothing holds on to the CPUs of the group that was lost
        if ray.available_resources().get("CPU") == 2:
            return
        time.sleep(0.1)
    pytest.fail(f"CPUs still taken: {ray.available_resources()}")


def toy_training(out: str) -> None:
    """Replicas, then sharded parameters, each in a training of their own."""
    for parallel in ("ddp", "fsdp"):
        train_toy(dist.get_rank(), dist.get_world_size(), parallel, Path(out) / parallel)


def train_toy(rank: int, world: int, parallel: workers.Parallel, out: Path) -> None:
    """A few steps of a small network, stopped and resumed from a checkpoint half way."""

    def fresh() -> tuple[torch.nn.Module, list[torch.optim.Optimizer]]:
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        wrapped = workers.parallelise(module, parallel, [module[0]])
        return wrapped, make_optimizers(module, learning_rate=0.05, weight_decay=0.0)

    wrapped, optimizers = fresh()
    for step in range(STEPS):
        if step == STEPS // 2:
            workers.save_checkpoint(out / "checkpoint.pt", workers.full_state(wrapped, optimizers))
            dist.barrier()
            wrapped, optimizers = fresh()
            saved = workers.load_checkpoint(out / "checkpoint.pt")
            assert saved is not None
            workers.load_full_state(wrapped, optimizers, saved)
        rows = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))[rank::world]
        optimizers[0].zero_grad()
        wrapped(rows).square().mean().backward()
        optimizers[0].step()
    state = workers.full_state(wrapped, optimizers)
    if rank == 0:
        torch.save(state["model"], out / "final.pt")


def test_sharded_parameters_learn_what_replicas_learn(tmp_path):
    for parallel in ("ddp", "fsdp"):
        (tmp_path / parallel).mkdir()
    on_workers(toy_training, 2, str(tmp_path))
    replicas, shards = (torch.load(tmp_path / name / "final.pt", weights_only=True) for name in ("ddp", "fsdp"))
    assert replicas.keys() == shards.keys()
    for name, tensor in replicas.items():
        assert torch.allclose(tensor, shards[name], atol=1e-5), name
