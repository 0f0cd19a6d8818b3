"""The training loop of the baseline, for one model on any number of workers.

As in Stage II: rows, noise and shifts of a step follow from (seed, step) alone, losses are sums over all workers, and a
checkpoint holds the step, so that a run that was killed continues with the losses it would have had.
"""

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from blm.model.diffusion_network import DiffusionNetwork
from blm.model.diffusion_policy import write_diffusion_policy
from blm.model.errors import UserError
from blm.model.training import mixed_precision, resolve_precision
from blm.pipelines import workers
from blm.pipelines.baseline import BaselineConfig
from blm.pipelines.diffusion_baseline.data import Data, draws_of, on_device, open_data
from blm.pipelines.diffusion_baseline.heldout import held_out
from blm.pipelines.policy_training import checkpoints
from blm.pipelines.policy_training.weights import Weights
from blm.pipelines.workspace import write_json

METRICS = "metrics.json"
LOG_EVERY = 50  # steps between points of the curve
AGREE_EVERY = 10  # steps between looks at the clock, which all workers must share


def train(config: dict[str, Any]) -> None:
    """As a Ray Train worker: train one model, to `config["model"]` and `config["folder"]`."""
    _, _, device = workers.prepare(config)
    run(config, device)


def run(config: dict[str, Any], device: torch.device) -> None:
    """`train` in any process of a process group. Does nothing if the model is finished."""
    folder = Path(config["folder"])
    if (folder / METRICS).is_file():
        return
    stage: BaselineConfig = config["stage"]
    data = open_data(config)
    torch.manual_seed(config["seed"])
    network = data.contract.build().to(device)
    weights = Weights(
        network,
        learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay,
        steps=stage.steps,
        warmup=stage.warmup,
    )
    progress = checkpoints.load(folder, weights)
    if progress is not None:
        _say(config, f"going on from step {progress['step']}")
    progress = progress or {"step": 0, "curve": [], "validation": [], "seconds": 0.0, "sums": [0.0, 0.0]}
    _steps(config, data, weights, network, progress, device)
    if dist.get_rank() == 0:
        state = {name: tensor.detach().cpu() for name, tensor in weights.average_state().items()}
        write_diffusion_policy(Path(config["model"]), data.contract, state)
        write_json(folder / METRICS, _metrics(progress, network, data, stage))
    dist.barrier()


def _steps(
    config: dict[str, Any],
    data: Data,
    weights: Weights,
    network: DiffusionNetwork,
    progress: dict[str, Any],
    device: torch.device,
) -> None:
    """From where the checkpoint was to the last step."""
    stage: BaselineConfig = config["stage"]
    autocast = mixed_precision(device, resolve_precision(stage.precision, config["dtype"], device))
    saver = checkpoints.Saver(Path(config["folder"]))
    first, spent, started = progress["step"], progress["seconds"], time.monotonic()
    rank, world, last_save = dist.get_rank(), dist.get_world_size(), started
    sums = torch.tensor(progress["sums"] if rank == 0 else [0.0, 0.0], dtype=torch.float64, device=device)
    batches = data.feed.steps(
        first,
        stage.steps,
        batch=stage.batch,
        seed=config["seed"],
        temperature=stage.temperature,
        rank=rank,
        world=world,
    )
    network.train()
    for step, pictures in zip(range(first, stage.steps), batches, strict=True):
        draws = draws_of(data, seed=config["seed"], step=step, batch=stage.batch, draws=stage.draws)
        with autocast:
            error, count = network(on_device(pictures, device), draws)
        total = workers.summed(count.detach().double())
        weights.zero_gradients()
        (error / total.float()).backward()
        weights.add_up_gradients()
        weights.clip_gradients(stage.clip_norm)
        weights.optimizers.step()
        weights.update_average(step, stage.ema)
        sums += torch.stack([error.detach().double(), count.double()])
        now, done, last = time.monotonic(), step + 1, step + 1 == stage.steps
        progress |= {"step": done, "seconds": spent + now - started}
        if done % LOG_EVERY == 0 or last:
            _log(config, progress, workers.summed(sums), (done - first) * stage.batch / (now - started))
            sums.zero_()
        if done % stage.validate_every == 0 or last:
            progress["validation"].append({"step": done} | held_out(weights, network, data, device))
        if last or (done % AGREE_EVERY == 0 and workers.agree(now - last_save > stage.checkpoint_every_s)):
            whole = workers.summed(sums)
            _require_finite(whole, done)
            if rank == 0:
                saver.save(weights, progress | {"sums": whole.tolist()})
            last_save = time.monotonic()
    saver.wait()


def _require_finite(sums: Tensor, step: int) -> None:
    if not torch.isfinite(sums).all():
        raise UserError(
            f"the loss is no longer finite at step {step}; lower baseline.learning_rate, delete the stage's folder and"
            " run it again"
        )


def _log(config: dict[str, Any], progress: dict[str, Any], sums: Tensor, rate: float) -> None:
    """A point of the curve: the mean since the last one."""
    _require_finite(sums, progress["step"])
    loss = float(sums[0] / sums[1])
    progress["curve"].append({"step": progress["step"], "loss": round(loss, 5), "samples_per_s": round(rate, 1)})
    steps = config["stage"].steps
    left_s = (steps - progress["step"]) * config["stage"].batch / rate
    _say(config, f"{progress['step']}/{steps}  loss {loss:.4f}  {rate:.0f} samples/s  {left_s:.0f} s left")


def _say(config: dict[str, Any], text: str) -> None:
    if dist.get_rank() == 0:
        scope = "" if config["scope"] == "all" else f" {config['scope']}"
        print(f"[baseline]{scope} {text}", flush=True)


def _metrics(progress: dict[str, Any], network: DiffusionNetwork, data: Data, stage: BaselineConfig) -> dict[str, Any]:
    return {
        "curve": progress["curve"],
        "validation": progress["validation"],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "windows": len(data.index.train_rows) + len(data.index.validation_rows),
        "samples_per_s": round(stage.steps * stage.batch / max(progress["seconds"], 1e-9), 1),
    }
