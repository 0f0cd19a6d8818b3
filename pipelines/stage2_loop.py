"""The training loop of Stage II, as one Ray Train worker runs it.

Rows, noise, flow times and dropout of a step follow from (seed, step, rank), and a checkpoint holds the step, so a
run that was killed continues with the losses it would have had.
"""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from blm.model.checkpoint import Contract, write_checkpoint
from blm.model.errors import UserError
from blm.model.optim import ScheduledOptimizers, make_optimizers
from blm.model.options import PolicyConfig
from blm.model.policy import Policy
from blm.model.training import ema_update, mixed_precision, resolve_precision, step_generator
from blm.pipelines import workers
from blm.pipelines.intent_cache import IntentCache
from blm.pipelines.mixture import row_order
from blm.pipelines.policy_data import BatchMaker, RobotWindows, load_windows, statistics_of
from blm.pipelines.workspace import write_json

LOG_EVERY = 50  # steps between points of the curve
VALIDATION_BATCH = 128
KEYS = ("flow", "future")
HELD_OUT_KEYS = ("flow", "future", "copy", "target_std")


def train(config: dict[str, Any]) -> None:
    """Train and write `model/` and `metrics.json` into `config["out"]`."""
    rank, _, device = workers.prepare(config)
    stage, out = config["stage"], Path(config["out"])
    windows = [
        load_windows(
            robot,
            Path(path),
            IntentCache(Path(config["caches"][robot])),
            stage["policy"]["chunk"],
            min_actions=stage["min_actions"],
        )
        for robot, path in config["datasets"].items()
    ]
    statistics = statistics_of(windows)
    data = BatchMaker(windows, statistics)
    contract = Contract(
        policy=PolicyConfig(**stage["policy"]),
        embodiments=tuple(config["datasets"]),
        intent_width=windows[0].cache.width,
        max_tokens=max(w.cache.tokens for w in windows),
        statistics=statistics,
        **config["contract"] | {"cameras": tuple(config["contract"]["cameras"])},
    )
    torch.manual_seed(config["seed"])
    policy = contract.build_policy().to(device)
    wrapped = _parallelise(policy)
    progress = _run(config, policy, wrapped, data, out / "train" / "checkpoint.pt")
    if rank == 0:
        write_checkpoint(out / "model", Path(config["mllm"]), contract, progress.pop("average"))
        write_json(out / "metrics.json", _metrics(progress, policy, windows, stage))
    dist.barrier()


def _parallelise(policy: Policy) -> nn.Module:
    """DDP over all workers. A worker's rows may lack a robot, whose head then has no gradients to wait for."""
    if dist.get_world_size() == 1:
        return policy
    several = len(policy.robots) > 1
    return nn.parallel.DistributedDataParallel(policy, find_unused_parameters=several, gradient_as_bucket_view=True)


def _run(config: dict[str, Any], policy: Policy, wrapped: nn.Module, data: BatchMaker, path: Path) -> dict[str, Any]:
    stage, rank, world = config["stage"], dist.get_rank(), dist.get_world_size()
    device = next(policy.parameters()).device
    parts = make_optimizers(policy, learning_rate=stage["learning_rate"], weight_decay=stage["weight_decay"])
    optimizers = ScheduledOptimizers(parts, steps=stage["steps"], warmup=stage["warmup"], floor=0.05)
    progress: dict[str, Any] = {
        "step": 0,
        "curve": [],
        "validation": [],
        "seconds": 0.0,
        "sums": [0.0] * len(KEYS),
        "counted": 0,
    }
    average = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    if saved := workers.load_checkpoint(path):
        workers.load_full_state(wrapped, optimizers.parts, saved)
        optimizers.load_schedule_state(saved["schedule"])
        progress, average = saved["progress"], {n: t.to(device, copy=True) for n, t in saved["average"].items()}
        if rank == 0:
            print(f"[stage2] going on from step {progress['step']}", flush=True)

    autocast = mixed_precision(device, resolve_precision(stage["precision"], config["dtype"], device))
    current = policy.state_dict()  # the live weights, not a copy
    spent, started, last_save, first = progress["seconds"], time.monotonic(), time.monotonic(), progress["step"]
    sums, counted = torch.tensor(progress["sums"], device=device), progress["counted"]
    wrapped.train()
    for step in range(first, stage["steps"]):
        order = row_order(len(data.train_rows), step * stage["batch"], stage["batch"], config["seed"])
        batch = data.batch(data.train_rows[order[rank::world]], device)
        generator = step_generator(config["seed"], step, rank)
        with autocast:
            losses = wrapped(batch, generator, stage["draws"])
        optimizers.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), stage["clip_norm"])
        optimizers.step()
        policy.update_target()
        ema_update(average, current, step, stage["ema"])
        sums += torch.stack([losses[key].detach().float() for key in KEYS])
        counted += 1
        now = time.monotonic()
        progress |= {"step": step + 1, "seconds": spent + now - started}
        last = step + 1 == stage["steps"]
        if (step + 1) % LOG_EVERY == 0 or last:
            _log(
                progress, (sums / counted).tolist(), stage, (step + 1 - first) * stage["batch"] / (now - started), rank
            )
            sums.zero_()
            counted = 0
        if (step + 1) % stage["validate_every"] == 0 or last:
            progress["validation"].append({"step": step + 1} | _validate(policy, average, data, device))
        if ((step + 1) % 10 == 0 and workers.agree(now - last_save > stage["checkpoint_every_s"])) or last:
            state = workers.full_state(wrapped, optimizers.parts)
            progress |= {"sums": sums.tolist(), "counted": counted}
            workers.save_checkpoint(
                path, state | {"schedule": optimizers.schedule_state(), "progress": progress, "average": average}
            )
            last_save = now
    return progress | {"average": average}


@torch.no_grad()
def _validate(
    policy: Policy, average: dict[str, torch.Tensor], data: BatchMaker, device: torch.device
) -> dict[str, float]:
    """Losses of the averaged weights on held-out episodes, with the same noise every time."""
    rows = data.validation_rows if len(data.validation_rows) else data.train_rows[:VALIDATION_BATCH]
    generator = torch.Generator().manual_seed(0)
    current = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    policy.load_state_dict(average)
    policy.eval()
    totals: dict[str, float] = {}
    for first in range(0, len(rows), VALIDATION_BATCH):
        part = rows[first : first + VALIDATION_BATCH]
        losses = policy(data.batch(part, device), generator)
        for key in HELD_OUT_KEYS:
            totals[key] = totals.get(key, 0.0) + float(losses[key]) * len(part) / len(rows)
    policy.load_state_dict(current)
    policy.train()
    return {f"val_{key}": round(value, 5) for key, value in totals.items()}


def _log(progress: dict[str, Any], losses: list[float], stage: dict[str, Any], rate: float, rank: int) -> None:
    if not all(math.isfinite(value) for value in losses):
        raise UserError(
            f"the loss is no longer finite at step {progress['step']}; lower stage2.learning_rate, delete the stage's"
            " folder and run it again"
        )
    point = {"step": progress["step"]} | {key: round(value, 5) for key, value in zip(KEYS, losses, strict=True)}
    progress["curve"].append(point | {"samples_per_s": round(rate, 1)})
    if rank == 0:
        left_s = (stage["steps"] - progress["step"]) * stage["batch"] / rate
        print(
            f"[stage2] {progress['step']}/{stage['steps']}  flow {point['flow']:.4f}  future {point['future']:.3f}"
            f"  {rate:.0f} samples/s  {left_s:.0f} s left",
            flush=True,
        )


def _metrics(
    progress: dict[str, Any], policy: Policy, windows: list[RobotWindows], stage: dict[str, Any]
) -> dict[str, Any]:
    return {
        "curve": progress["curve"],
        "validation": progress["validation"],
        "parameters": sum(p.numel() for p in policy.parameters() if p.requires_grad),
        "windows": int(np.sum([len(w.state) for w in windows])),
        "samples_per_s": round(stage["steps"] * stage["batch"] / max(progress["seconds"], 1e-9), 1),
    }
