"""What a training worker of Stage II does, for one model: steps on intents, and candidates on the way (`course.py` has
the loop itself)."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from blm.cluster import depot
from blm.model.checkpoint import write_checkpoint
from blm.model.policy import Policy
from blm.model.policy_batch import PolicyBatch, PolicyDraws, make_draws, refuse_non_finite
from blm.model.training import step_generator
from blm.pipelines import workers
from blm.pipelines.policy_training.candidates import CANDIDATES, CONTRACT, candidate
from blm.pipelines.policy_training.course import follow, share_of
from blm.pipelines.policy_training.data import TrainingData, open_data
from blm.pipelines.policy_training.heldout import held_out
from blm.pipelines.policy_training.step import compile_blocks, take_step
from blm.pipelines.policy_training.weights import Weights
from blm.pipelines.stage2 import Stage2Config
from blm.pipelines.windows.index import WindowIndex


def train(config: dict[str, Any]) -> None:
    """As a Ray Train worker: train one model. Checkpoint, candidates and `metrics.json` go to `config["folder"]`."""
    _, _, device = workers.prepare(config)
    run(config, device)


def run(config: dict[str, Any], device: torch.device) -> None:
    """`train` in any process of a process group. Does nothing if the model is finished."""
    follow(config, device, _prepare)


def _prepare(config: dict[str, Any], device: torch.device) -> "_PolicyLearner":
    """Data, and a fresh policy on its device."""
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
    if stage.compile:
        compile_blocks(policy)
    return _PolicyLearner(config=config, stage=stage, data=data, policy=policy.train(), weights=weights, device=device)


@dataclass(kw_only=True, slots=True)
class _PolicyLearner:
    """The policy, and what a worker trains it on."""

    config: dict[str, Any]
    stage: Stage2Config
    data: TrainingData
    policy: Policy
    weights: Weights
    device: torch.device
    name: str = "stage2"
    sums: int = 4

    @property
    def index(self) -> WindowIndex:
        """The windows."""
        return self.data.index

    @property
    def seed(self) -> int:
        """Root of all randomness."""
        return int(self.config["seed"])

    def batches(self, first: int) -> Iterator[PolicyBatch]:
        """As `Learner.batches`."""
        share = share_of(self.index, self.stage, self.seed)
        return self.data.feed.steps(share, first, self.stage.steps, device=self.device)

    def step(self, step: int, batch: PolicyBatch, autocast: AbstractContextManager[object]) -> Tensor:
        """As `Learner.step`."""
        step_generator(self.seed, step, dist.get_rank())  # seeds dropout
        return take_step(self.weights, self.policy, batch, self.draws(step), autocast, clip_norm=self.stage.clip_norm)

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

    def point(self, sums: list[float]) -> dict[str, float]:
        """As `Learner.point`."""
        flow, n_flow, future, n_future = sums
        return {"flow": round(flow / n_flow, 5), "future": round(future / max(n_future, 1.0), 5)}

    def told(self, point: dict[str, float]) -> str:
        """As `Learner.told`."""
        return f"flow {point['flow']:.4f}  future {point['future']:.3f}"

    def held_out(self) -> dict[str, float]:
        """As `Learner.held_out`."""
        found = held_out(self.weights, self.policy, self.data, self.device)
        assert math.isfinite(found["val_flow"]), "losses were finite"
        return found

    def blame(self, step: int) -> None:
        """As `Learner.blame`."""
        refuse_non_finite(self.data.step_batch(self.stage, self.seed, step))

    def after(self, step: int, *, last: bool) -> None:
        """The averaged weights of now as a checkpoint that can act, where one is due and not there from before a
        kill."""
        due = last or (self.stage.rollouts_every and step % self.stage.rollouts_every == 0)
        if not due or dist.get_rank() != 0:
            return
        folder = candidate(depot.place(Path(self.config["folder"])) / CANDIDATES, step)
        if not (depot.here(folder) / CONTRACT).is_file():
            self._write(folder, step)
        depot.keep(folder)

    def _write(self, folder: Path, step: int) -> None:
        contract = self.data.contract
        contract = replace(contract, provenance={**contract.provenance, "step": step})
        state = {name: tensor.detach().cpu() for name, tensor in self.weights.average_state().items()}
        folder.parent.mkdir(parents=True, exist_ok=True)
        mllm = depot.here(Path(self.config["mllm"]))
        write_checkpoint(folder, mllm, contract, state)
