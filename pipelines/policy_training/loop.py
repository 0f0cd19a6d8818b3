"""The training loop of Stage II, for one model on any number of workers.

Rows, noise and dropped tokens of a step follow from (seed, step) alone, losses are sums over all workers, and a
checkpoint holds the step: a run that was killed continues with the losses it would have had, on as many workers as
there now are.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from blm.model.checkpoint import write_checkpoint
from blm.model.errors import UserError
from blm.model.policy import Policy
from blm.model.policy_batch import PolicyDraws, make_draws, refuse_non_finite
from blm.model.training import mixed_precision, resolve_precision, step_generator
from blm.pipelines import workers
from blm.pipelines.policy_training import checkpoints
from blm.pipelines.policy_training.candidates import CONTRACT, candidate
from blm.pipelines.policy_training.data import TrainingData, open_data
from blm.pipelines.policy_training.heldout import held_out
from blm.pipelines.policy_training.step import compile_blocks, take_step
from blm.pipelines.policy_training.weights import Weights
from blm.pipelines.stage2 import Stage2Config
from blm.pipelines.workspace import write_json

LOG_EVERY = 50  # steps between points of the curve
AGREE_EVERY = 10  # steps between looks at the clock, which all workers must share
METRICS = "metrics.json"
CANDIDATES = "candidates"


@dataclass(kw_only=True, slots=True)
class _Training:
    """What a worker holds while it trains."""

    config: dict[str, Any]
    """As the driver gave it."""
    stage: Stage2Config
    data: TrainingData
    policy: Policy
    weights: Weights
    device: torch.device
    progress: dict[str, Any]
    """Everything of a checkpoint that is not a tensor."""
    sums: Tensor
    """float64 [4]: this worker's losses since the last point of the curve."""

    @property
    def folder(self) -> Path:
        """Where training checkpoints, candidates and metrics of this model go."""
        return Path(self.config["folder"])

    @property
    def seed(self) -> int:
        """Root of all randomness."""
        return int(self.config["seed"])

    def draws(self, step: int) -> PolicyDraws:
        """All randomness of a step."""
        return make_draws(
            self.stage.policy,
            seed=self.seed,
            step=step,
            batch=self.stage.batch,
            draws=self.stage.draws,
            max_action_dim=self.data.max_action_dim,
        )


def train(config: dict[str, Any]) -> None:
    """As a Ray Train worker: train one model. Checkpoint, candidates and `metrics.json` go to `config["folder"]`."""
    _, _, device = workers.prepare(config)
    run(config, device)


def run(config: dict[str, Any], device: torch.device) -> None:
    """`train` in any process of a process group. Does nothing if the model is finished."""
    if (Path(config["folder"]) / METRICS).is_file():
        return
    training = _prepare(config, device)
    _steps(training)
    if dist.get_rank() == 0:
        write_json(training.folder / METRICS, _metrics(training))
    dist.barrier()


def _prepare(config: dict[str, Any], device: torch.device) -> _Training:
    """Data, a fresh policy on its device, and what a checkpoint holds of it."""
    stage: Stage2Config = config["stage"]
    data = open_data(config, device)
    torch.manual_seed(config["seed"])
    policy = data.contract.build_policy().to(device)
    weights = Weights(
        policy,
        learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay,
        steps=stage.steps,
        warmup=stage.warmup,
        kind=stage.optimizer,
        muon=(policy.bridge.layers, policy.dit.blocks),
    )
    progress = checkpoints.load(Path(config["folder"]), weights)
    if progress is not None:
        _say(config, f"going on from step {progress['step']}")
    progress = progress or {"step": 0, "curve": [], "validation": [], "seconds": 0.0, "sums": [0.0] * 4}
    if stage.compile:
        compile_blocks(policy)
    mine = progress["sums"] if dist.get_rank() == 0 else [0.0] * 4
    return _Training(
        config=config,
        stage=stage,
        data=data,
        policy=policy.train(),
        weights=weights,
        device=device,
        progress=progress,
        sums=torch.tensor(mine, dtype=torch.float64, device=device),
    )


def _steps(training: _Training) -> None:
    """From where the checkpoint was to the last step."""
    stage, progress, weights, policy = training.stage, training.progress, training.weights, training.policy
    rank, world, device = dist.get_rank(), dist.get_world_size(), training.device
    precision = resolve_precision(stage.precision, training.config["dtype"], device)
    autocast = mixed_precision(device, precision)
    saver = checkpoints.Saver(training.folder)
    first, spent, started = progress["step"], progress["seconds"], time.monotonic()
    last_save = started
    batches = training.data.feed.steps(
        first,
        stage.steps,
        batch=stage.batch,
        seed=training.seed,
        temperature=stage.temperature,
        rank=rank,
        world=world,
        device=device,
    )
    for step, batch in zip(range(first, stage.steps), batches, strict=True):
        step_generator(training.seed, step, rank)  # seeds dropout
        training.sums += take_step(weights, policy, batch, training.draws(step), autocast, clip_norm=stage.clip_norm)
        weights.update_average(step, stage.ema)
        now, done, last = time.monotonic(), step + 1, step + 1 == stage.steps
        progress |= {"step": done, "seconds": spent + now - started}
        if done % LOG_EVERY == 0 or last:
            _log(training, (done - first) * stage.batch / (now - started))
        if done % stage.validate_every == 0 or last:
            point = held_out(weights, policy, training.data, device)
            progress["validation"].append({"step": done} | point)
        if last or (stage.rollouts_every and done % stage.rollouts_every == 0):
            _write_candidate(training, done)
        if last or (done % AGREE_EVERY == 0 and workers.agree(now - last_save > stage.checkpoint_every_s)):
            _save(training, saver)
            last_save = time.monotonic()
    saver.wait()


def _save(training: _Training, saver: checkpoints.Saver) -> None:
    """A training checkpoint, unless training has left the finite numbers: the one before is better."""
    sums = workers.summed(training.sums)
    _require_finite(training, sums)
    if dist.get_rank() == 0:
        saver.save(training.weights, training.progress | {"sums": sums.tolist()})


def _write_candidate(training: _Training, step: int) -> None:
    """The averaged weights of now as a checkpoint that can act, if it is not there from before a kill."""
    folder = candidate(training.folder / CANDIDATES, step)
    if dist.get_rank() == 0 and not (folder / CONTRACT).is_file():
        contract = training.data.contract
        contract = replace(contract, provenance={**contract.provenance, "step": step})
        state = {name: tensor.detach().cpu() for name, tensor in training.weights.average_state().items()}
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(folder, Path(training.config["mllm"]), contract, state)


# ----------------------------------------------------------------------------------------------------- what is told


def _log(training: _Training, rate: float) -> None:
    """A point of the curve: means since the last one."""
    sums = workers.summed(training.sums)
    _require_finite(training, sums)
    flow, n_flow, future, n_future = sums.tolist()
    point = {
        "step": training.progress["step"],
        "flow": round(flow / n_flow, 5),
        "future": round(future / max(n_future, 1.0), 5),
    }
    training.progress["curve"].append(point | {"samples_per_s": round(rate, 1)})
    training.sums.zero_()
    left_s = (training.stage.steps - point["step"]) * training.stage.batch / rate
    _say(
        training.config,
        f"{point['step']}/{training.stage.steps}  flow {point['flow']:.4f}  future {point['future']:.3f}"
        f"  {rate:.0f} samples/s  {left_s:.0f} s left",
    )


def _require_finite(training: _Training, sums: Tensor) -> None:
    """UserError if losses since the last point of the curve are not finite: the row that is to blame, or the rate."""
    if torch.isfinite(sums).all():
        return
    done = training.progress["step"]
    for step in range((done - 1) // LOG_EVERY * LOG_EVERY, done):
        refuse_non_finite(training.data.step_batch(training.stage, training.seed, step))
    raise UserError(
        f"the loss is no longer finite at step {done}; lower stage2.learning_rate, delete {training.folder} and run"
        " the stage again"
    )


def _say(config: dict[str, Any], text: str) -> None:
    if dist.get_rank() == 0:
        name = "" if config["scope"] == "all" else f"{config['scope']}: "
        print(f"[stage2] {name}{text}", flush=True)


def _metrics(training: _Training) -> dict[str, Any]:
    progress, stage = training.progress, training.stage
    points = [point["val_flow"] for point in progress["validation"]]
    assert all(math.isfinite(point) for point in points), "losses were finite"
    return {
        "curve": progress["curve"],
        "validation": progress["validation"],
        "parameters": sum(p.numel() for p in training.policy.parameters() if p.requires_grad),
        "windows": int(np.size(training.data.index.train_rows) + np.size(training.data.index.validation_rows)),
        "seconds": round(progress["seconds"], 3),
        "samples_per_s": round(stage.steps * stage.batch / max(progress["seconds"], 1e-9), 1),
    }
