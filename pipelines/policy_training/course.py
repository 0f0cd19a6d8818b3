"""A training from its first step to its last: what Stage II and the baseline have in common.

Rows and noise of a step follow from (seed, step) alone, losses are sums over all workers, and a checkpoint holds the
step: a run that was killed continues with the losses it would have had, on as many workers as there now are. What is
learned, and from what, is the business of a `Learner`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from blm.cluster import depot
from blm.model.errors import UserError
from blm.model.options import Precision
from blm.model.training import mixed_precision, resolve_precision
from blm.pipelines import workers
from blm.pipelines.checkpoint_times import save_due
from blm.pipelines.policy_training import checkpoints
from blm.pipelines.policy_training.results import METRICS
from blm.pipelines.policy_training.weights import Weights
from blm.pipelines.windows.index import Share, WindowIndex
from blm.pipelines.workspace import write_json

LOG_EVERY = 50  # steps between points of the curve
AGREE_EVERY = 10  # steps between looks at the clock, which all workers must share
Batch = TypeVar("Batch")


class Options(Protocol):
    """What a training reads of its stage's configuration."""

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""

    @property
    def batch(self) -> int:
        """Rows a step, over all workers."""

    @property
    def temperature(self) -> float:
        """Of the mixture of cells."""

    @property
    def ema(self) -> float:
        """Decay of the average of the weights."""

    @property
    def precision(self) -> Precision:
        """Of matrix products."""

    @property
    def validate_every(self) -> int:
        """Steps between looks at held-out episodes."""

    @property
    def checkpoint_every_s(self) -> float:
        """Seconds between training checkpoints."""


class Learner(Protocol[Batch]):
    """What is trained. Every worker has one and calls all of this, each with its own rows."""

    @property
    def name(self) -> str:
        """The stage: its lines of progress and its options begin so."""

    @property
    def weights(self) -> Weights:
        """What is learned."""

    @property
    def index(self) -> WindowIndex:
        """What it is learned from."""

    @property
    def sums(self) -> int:
        """How many numbers `step` returns."""

    def batches(self, first: int) -> Iterator[Batch]:
        """This worker's share of every step from `first` on."""

    def step(self, step: int, batch: Batch, autocast: AbstractContextManager[object]) -> Tensor:
        """Learn from a batch. Returns sums and counts of this worker's losses, float64 [sums]."""

    def point(self, sums: list[float]) -> dict[str, float]:
        """Names and values of a point of the curve, from what `step` returned, summed since the last point."""

    def told(self, point: dict[str, float]) -> str:
        """A point in words."""

    def held_out(self) -> dict[str, float]:
        """How good the averaged weights are on episodes that training never sees."""

    def blame(self, step: int) -> None:
        """After a loss that is not finite: UserError if the rows of this step are to blame."""

    def after(self, step: int, *, last: bool) -> None:
        """So many steps are done: write what there is to be written of the weights."""


@dataclass(kw_only=True, slots=True)
class _Course:
    """What a worker holds while it trains."""

    config: dict[str, Any]
    """As the driver gave it: `stage`, `folder`, `scope`, `dtype` and what the learner wants."""
    learner: Learner[Any]
    device: torch.device
    progress: dict[str, Any]
    """Everything of a checkpoint that is not a tensor."""
    sums: Tensor
    """float64: this worker's losses since the last point of the curve."""

    @property
    def stage(self) -> Options:
        """The stage's configuration."""
        options: Options = self.config["stage"]
        return options

    @property
    def folder(self) -> Path:
        """Where checkpoints and metrics of this model go."""
        return depot.place(Path(self.config["folder"]))


def follow(
    config: dict[str, Any], device: torch.device, make: Callable[[dict[str, Any], torch.device], Learner[Any]]
) -> None:
    """Train what `make(config, device)` returns, from its checkpoint if there is one, and write `metrics.json` into
    `config["folder"]`. In any process of a process group. Does nothing if the model is finished.
    """
    metrics = depot.place(Path(config["folder"])) / METRICS
    if depot.has_store() and dist.get_rank() == 0:
        metrics.unlink(missing_ok=True)  # it may never have come to be in the store
    if workers.first_says(depot.here(metrics).is_file()):
        return
    course = _begin(config, device, make(config, device))
    _steps(course)
    if dist.get_rank() == 0:
        write_json(metrics, _metrics(course))
        depot.keep(metrics)
    dist.barrier()


def share_of(index: WindowIndex, stage: Options, seed: int) -> Share:
    """What this worker takes of every step."""
    rank, world = dist.get_rank(), dist.get_world_size()
    return index.share(batch=stage.batch, seed=seed, temperature=stage.temperature, rank=rank, world=world)


def _begin(config: dict[str, Any], device: torch.device, learner: Learner[Any]) -> _Course:
    """From nothing, or from what a checkpoint holds."""
    nothing = [0.0] * learner.sums
    progress = checkpoints.load(depot.place(Path(config["folder"])), learner.weights)
    if progress is not None:
        _say(config, learner, f"going on from step {progress['step']}")
    progress = progress or {"step": 0, "curve": [], "validation": [], "seconds": 0.0, "sums": nothing}
    mine = progress["sums"] if dist.get_rank() == 0 else nothing
    sums = torch.tensor(mine, dtype=torch.float64, device=device)
    return _Course(config=config, learner=learner, device=device, progress=progress, sums=sums)


def _steps(course: _Course) -> None:
    """From where the checkpoint was to the last step."""
    stage, learner, progress = course.stage, course.learner, course.progress
    autocast = mixed_precision(course.device, resolve_precision(stage.precision, course.config["dtype"], course.device))
    saver = checkpoints.Saver(course.folder, course.config.get("fence"))
    first, spent, started = progress["step"], progress["seconds"], time.monotonic()
    last_save = started
    for step, batch in zip(range(first, stage.steps), learner.batches(first), strict=True):
        course.sums += learner.step(step, batch, autocast)
        learner.weights.update_average(step, stage.ema)
        now, done, last = time.monotonic(), step + 1, step + 1 == stage.steps
        progress |= {"step": done, "seconds": spent + now - started}
        if done % LOG_EVERY == 0 or last:
            _log(course, (done - first) * stage.batch / (now - started))
        if done % stage.validate_every == 0 or last:
            progress["validation"].append({"step": done} | learner.held_out())
        learner.after(done, last=last)
        if last or (done % AGREE_EVERY == 0 and save_due(now - last_save, stage.checkpoint_every_s)):
            _save(course, saver)
            last_save = time.monotonic()
    saver.wait()


def _save(course: _Course, saver: checkpoints.Saver) -> None:
    """A training checkpoint, unless training has left the finite numbers: the one before is better."""
    sums = _finite_sums(course)
    if dist.get_rank() == 0:
        saver.save(course.learner.weights, course.progress | {"sums": sums.tolist()})


def _log(course: _Course, rate: float) -> None:
    """A point of the curve: means since the last one."""
    learner, progress = course.learner, course.progress
    point = learner.point(_finite_sums(course).tolist())
    progress["curve"].append({"step": progress["step"], **point, "samples_per_s": round(rate, 1)})
    course.sums.zero_()
    done, steps = progress["step"], course.stage.steps
    left_s = (steps - done) * course.stage.batch / rate
    text = f"{done}/{steps}  {learner.told(point)}  {rate:.0f} samples/s  {left_s:.0f} s left"
    _say(course.config, learner, text)


def _finite_sums(course: _Course) -> Tensor:
    """All workers' losses since the last point of the curve. UserError if they are not finite: the row that is to
    blame, or the rate.
    """
    sums = workers.summed(course.sums)
    if torch.isfinite(sums).all():
        return sums
    done, name = course.progress["step"], course.learner.name
    for step in range((done - 1) // LOG_EVERY * LOG_EVERY, done):
        course.learner.blame(step)
    raise UserError(
        f"the loss is no longer finite at step {done}; lower {name}.learning_rate, delete {course.folder} and run"
        " the stage again"
    )


def _say(config: dict[str, Any], learner: Learner[Any], text: str) -> None:
    if dist.get_rank() == 0:
        scope = "" if config["scope"] == "all" else f"{config['scope']}: "
        print(f"[{learner.name}] {scope}{text}", flush=True)


def _metrics(course: _Course) -> dict[str, Any]:
    progress, weights, index = course.progress, course.learner.weights, course.learner.index
    return {
        "curve": progress["curve"],
        "validation": progress["validation"],
        "parameters": sum(p.numel() for p in weights.policy.parameters() if p.requires_grad),
        "windows": len(index.train_rows) + len(index.validation_rows),
        "seconds": round(progress["seconds"], 3),
        "samples_per_s": round(course.stage.steps * course.stage.batch / max(progress["seconds"], 1e-9), 1),
    }
