"""The training loop of Stage I, as one Ray Train worker runs it.

Every random choice follows from (seed, step, worker), and a checkpoint holds the step, so a run that was killed
continues with the losses it would have had; with another number of workers it continues with the same rows.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from blm.cluster import depot
from blm.model.flops import device_flops, training_flops
from blm.model.optim import ScheduledOptimizers, make_optimizers
from blm.model.training import ema_update, step_generator
from blm.pipelines import workers
from blm.pipelines.checkpoint_times import save_due
from blm.pipelines.fence import Fence
from blm.pipelines.finetune import checkpoints, network
from blm.pipelines.finetune.batches import Phase, StepBatches, batches_of, phases
from blm.pipelines.finetune.curve import LOG_EVERY, Curve
from blm.pipelines.finetune.metrics import ask_held_out, metrics
from blm.pipelines.finetune.network import Stage1Model
from blm.pipelines.finetune.results import results
from blm.pipelines.finetune.row_store import RowStore
from blm.pipelines.finetune.step import check_skipped, take_step
from blm.pipelines.stage1 import Stage1Config
from blm.pipelines.workspace import write_json

FLOOR = 0.05  # the cosine ends at this share of the peak learning rate


@dataclass(kw_only=True, slots=True)
class _Training:
    """What a worker holds while it trains."""

    config: Stage1Config
    seed: int
    model: Stage1Model
    rows: RowStore
    folder: Path
    """Of training checkpoints."""
    rank: int
    world: int
    threads: int
    """That make batches."""
    progress: dict[str, Any]
    """Everything of a checkpoint that is not a tensor."""
    peak_flops: float
    fence: Fence | None


def train(config: dict[str, Any]) -> None:
    """As a Ray Train worker: train from `config["start"]`, write `model/` and `metrics.json` into `config["out"]`."""
    _, _, device = workers.prepare(config)
    run(config, device)


def run(config: dict[str, Any], device: torch.device) -> None:
    """`train` in any process of a process group."""
    stage, out = config["stage"], depot.place(Path(config["out"]))
    start = str(depot.here(Path(config["start"]))) if depot.has_store() else config["start"]
    model = network.build(stage, start, config["seed"], config["dtype"], device)
    open_rows = partial(RowStore, encoder=model.encoder, cache_bytes=int(stage.cache_gb * 1e9))
    folder = out / "train"
    found = checkpoints.last(folder)
    checkpoint = found[0] if found else None
    fresh: dict[str, Any] = {"phase": 0, "step": 0, "curve": [], "seconds": 0.0, "skipped": 0, "sums": None}
    training = _Training(
        config=stage,
        seed=config["seed"],
        model=model,
        rows=open_rows([depot.here(Path(path)) for path in config["train"]]),
        folder=folder,
        rank=dist.get_rank(),
        world=dist.get_world_size(),
        threads=config["threads"],
        progress=found[1] if found else fresh,
        peak_flops=device_flops(device),
        fence=config.get("fence"),
    )
    held_out = open_rows([depot.here(Path(path)) for path in config["test"]])
    ask = partial(ask_held_out, model, config["questions"], held_out)
    progress = training.progress
    if "before" not in progress:
        progress["before"] = ask()
    average = None
    for number, phase in enumerate(phases(stage)):
        if number < progress["phase"]:
            continue
        if number > progress["phase"]:
            progress |= {"phase": number, "step": 0, "sums": None}
            checkpoint = None
        average = _run_phase(training, phase, checkpoint)
    if average is not None:
        _take_over(model, average)
    trained = any(phase.steps for phase in phases(stage))
    measured = results(progress["before"], ask() if trained else progress["before"], ask(hide=True))
    network.save(model, out / "model")
    if training.rank == 0:
        write_json(out / "metrics.json", metrics(stage, config["seed"], model, training.rows, progress) | measured)
        depot.keep(out / "model")
        depot.keep(out / "metrics.json")
    dist.barrier()


def _run_phase(training: _Training, phase: Phase, checkpoint: Path | None) -> dict[str, Tensor] | None:
    """Train one phase to its end, from its beginning or from a checkpoint in its midst. Returns the averaged weights,
    if they are asked for.
    """
    config, model, progress = training.config, training.model, training.progress
    if phase.steps == 0:
        return None
    optimizers = _optimizers(training, phase)
    average = None
    if config.ema > 0 and not phase.vision_only:
        average = {name: tensor.clone() for name, tensor in checkpoints.trainable(model.module).items()}
    if checkpoint is not None:
        checkpoints.load(checkpoint, model.module, optimizers.parts, average)
        optimizers.seek(progress["step"])
        _say(training, f"going on from step {phase.first_step + progress['step']}")
    if progress["step"] >= phase.steps:
        return average
    curve = Curve(sums=dict(progress["sums"])) if progress["sums"] else Curve()
    scales = (0.0 if phase.vision_only else 1.0, config.grounding_weight)
    spent, started, last_save = progress["seconds"], time.monotonic(), time.monotonic()
    model.wrapped.train()
    steps = batches_of(phase, config, training.rows, model.encoder, training.seed)
    for batches in steps.from_step(progress["step"], training.threads):
        step = batches.step
        step_generator(training.seed, phase.first_step + step, training.rank)  # seeds dropout
        taken = take_step(
            model.wrapped,
            optimizers,
            [partial(model.losses, batch, phase.vision_only) for batch in batches.micro],
            (scales[0] / max(batches.answers, 1), scales[1] / max(batches.known, 1)),
            clip_norm=config.clip_norm,
        )
        if not taken.finite:
            progress["skipped"] += 1
            check_skipped(progress["skipped"], config.max_skipped, phase.first_step + step)
        elif average is not None:
            ema_update(_local(average), _local(checkpoints.trainable(model.module)), step, config.ema)
        curve.add(batches, taken, _flops(training, batches, phase))
        now, last = time.monotonic(), step + 1 == phase.steps
        progress |= {"step": step + 1, "seconds": spent + now - started}
        if (step + 1) % LOG_EVERY == 0 or last:
            rate = max(float(group["lr"]) for group in optimizers.parts[0].param_groups)
            point = curve.point(phase.first_step + step + 1, rate, progress["skipped"], training.peak_flops)
            _log(training, phase, point)
        if last or save_due(now - last_save, config.checkpoint_every_s):
            progress["sums"] = curve.sums
            checkpoints.save(
                training.folder,
                phase.first_step + step + 1,
                progress,
                model.module,
                optimizers.parts,
                average,
                training.fence,
            )
            last_save = time.monotonic()
    return average


def _optimizers(training: _Training, phase: Phase) -> ScheduledOptimizers:
    """Those of one phase."""
    config = training.config
    parts = make_optimizers(
        training.model.module,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        kind=config.optimizer,
        rates=training.model.rates(),
    )
    return ScheduledOptimizers(parts, steps=phase.steps, warmup=config.warmup, floor=FLOOR)


def _flops(training: _Training, batches: StepBatches, phase: Phase) -> float:
    """Of this worker's part of a step; 0 where nobody asks."""
    if not training.peak_flops or phase.vision_only:
        return 0.0
    return sum(training_flops(training.model.mllm.config, batch) for batch in batches.micro)


@torch.no_grad()
def _take_over(model: Stage1Model, average: dict[str, Tensor]) -> None:
    """The averaged weights become the model's."""
    for name, tensor in checkpoints.trainable(model.module).items():
        tensor.copy_(average[name])


def _local(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """This worker's shards as plain tensors that share their memory; FSDP2 may move them between two steps."""
    return {name: tensor.to_local() if hasattr(tensor, "to_local") else tensor for name, tensor in tensors.items()}


def _say(training: _Training, text: str) -> None:
    if training.rank == 0:
        print(f"[stage1] {text}", flush=True)


def _log(training: _Training, phase: Phase, point: dict[str, Any]) -> None:
    progress = training.progress
    progress["curve"].append(point)
    left_s = (phase.steps - progress["step"]) * phase.batch / max(point["samples_per_s"], 1e-9)
    _say(
        training,
        f"{phase.name} {progress['step']}/{phase.steps}  loss {point['loss']:.3f}  grounding {point['grounding']:.3f}"
        f"  {point['samples_per_s']:.0f} samples/s  {point['tokens_per_s']:.0f} tokens/s  {left_s:.0f} s left",
    )
