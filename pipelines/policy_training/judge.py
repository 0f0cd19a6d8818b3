"""Validation rollouts while training goes on: a thread of the driver, simulators and policy in actors of their own.

Training never waits for them: without nodes of their kind the actors ask Ray for no CPUs, and yield by priority. What
was rolled out is in `rollouts.jsonl`, so a stage that was killed goes on with the episodes that are missing, those of
candidates from before the kill among them.
"""

import functools
import os
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from blm.actors.sim.execution_options import ExecutionConfig
from blm.actors.sim.outcome import EpisodeResult, Failure, RolloutConfig, RolloutItem
from blm.actors.sim.policies import Inference, Policy
from blm.actors.sim.tasks import instruction_for
from blm.actors.sim.world import Cell, WorldConfig, parse_cell, seed_range
from blm.cluster import depot, nodes
from blm.cluster.asks import asked
from blm.model.errors import UserError
from blm.pipelines.ledger import Ledger, Record
from blm.pipelines.policy_training.candidates import candidates, prune
from blm.pipelines.workspace import ResourceConfig, StageContext

if TYPE_CHECKING:  # the thread imports Ray: stages are imported by every call of the command line
    from ray.actor import ActorHandle

    from blm.actors.pool import WorkPool
    from blm.actors.sim.runner import RolloutRunner
    from blm.pipelines.stage2 import Stage2Config

KEY = ("scope", "step", "cell", "seed")
SIDE_BY_SIDE = 10
LOOK_EVERY_S = 1.0
NICE = 10
"""Priority of rollouts where they share CPUs with training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrant:
    """A model whose candidates are judged."""

    scope: str
    """Its name."""
    folder: Path
    """Where its candidates appear."""
    cells: tuple[str, ...]
    """Where they are rolled out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Item:
    cell: Cell
    seeds: tuple[int, ...]
    policy: Policy


class PatientRunner:
    """Plain object; `ray.remote` turns it into an actor of the pool. Episodes of any policy, at low priority."""

    def __init__(self, world: WorldConfig, config: RolloutConfig) -> None:
        os.nice(NICE)
        self._world, self._config = world, config
        self._runner: RolloutRunner | None = None

    def work(self, item: _Item) -> list[EpisodeResult]:
        """Results of the item's episodes, in order of its seeds."""
        from blm.actors.sim.runner import RolloutRunner

        if self._runner is None:
            self._runner = RolloutRunner(self._world, self._config, item.policy, slots=SIDE_BY_SIDE)
        self._runner.change_policy(item.policy)
        finished = self._runner.run([RolloutItem(cell=item.cell, seed=seed) for seed in item.seeds])
        return [one.result for one in finished]


class Judge:
    """Rolls out candidates as they appear. A context manager: the thread lives within."""

    def __init__(self, config: "Stage2Config", context: StageContext, entrants: Sequence[Entrant]) -> None:
        self._config, self._context, self._entrants = config, context, list(entrants)
        self._stop, self._training_over = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)

    def __enter__(self) -> Self:
        check_place(self._context.resources.for_policy)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._training_over.set()
        self._thread.join()

    def finish(self) -> list[Record]:
        """Once training is over: wait until every candidate is judged. Returns all rollouts; raises what ended the
        thread, if something did.
        """
        self._training_over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return read_rollouts(self._context.out)

    # -------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            with _open(self._context.out) as ledger, self._simulators() as pool:
                while not self._stop.is_set():
                    over = self._training_over.is_set()  # asked before looking: the last candidate comes before it
                    if (waiting := self._next(ledger)) is not None:
                        self._judge(ledger, pool, *waiting)
                    elif over:
                        return
                    else:
                        self._training_over.wait(LOOK_EVERY_S)
        except Exception as error:
            self._error = error
            reason = str(error) if isinstance(error, UserError) else traceback.format_exc()
            self._context.progress(f"validation rollouts ended: {reason}; training goes on without them")

    def _simulators(self) -> "WorkPool[_Item, list[EpisodeResult]]":
        import ray

        from blm.actors.pool import WorkPool

        config = RolloutConfig(execution=ExecutionConfig(execute_steps=self._config.rollout_execute_steps))

        def simulator() -> "ActorHandle":
            actor = ray.remote(PatientRunner).options(**nodes.options(asked("stage2", "simulator")))
            return actor.remote(self._context.world, config)

        return WorkPool(simulator, actors=max(1, self._config.rollout_actors))

    def _next(self, ledger: Ledger) -> tuple[Entrant, int, Path] | None:
        """The earliest candidate without all its results, of any model."""
        for entrant in self._entrants:
            for step, path in candidates(depot.here(entrant.folder)).items():
                if any(key not in ledger for _, _, keys in self._groups(entrant, step) for key in keys):
                    return entrant, step, path
        return None

    def _groups(self, entrant: Entrant, step: int) -> Iterator[tuple[Cell, tuple[int, ...], list[tuple[Any, ...]]]]:
        """Cell, seeds and keys of the episodes that are run together."""
        seeds = seed_range("validate")[: self._config.rollout_episodes]
        for name in entrant.cells:
            for first in range(0, len(seeds), SIDE_BY_SIDE):
                part = tuple(seeds[first : first + SIDE_BY_SIDE])
                yield parse_cell(name), part, [(entrant.scope, step, name, seed) for seed in part]

    def _judge(
        self, ledger: Ledger, pool: "WorkPool[_Item, list[EpisodeResult]]", entrant: Entrant, step: int, path: Path
    ) -> None:
        """Roll out what is missing of one candidate, and delete those that are no longer wanted."""
        from blm.actors.policy import ServingOptions, start_policy

        resources = self._context.resources
        make_policy = functools.partial(load_candidate, path, resources, self._config.rollout_euler_steps)
        options = ServingOptions(ask=asked("stage2", "policy", device=resources.device))
        policy = start_policy("candidate", make_policy, options)
        try:
            for cell, seeds, keys in self._groups(entrant, step):
                missing = tuple(seed for seed, key in zip(seeds, keys, strict=True) if key not in ledger)
                if missing:
                    pool.submit(_Item(cell=cell, seeds=missing, policy=policy))
            while pool.pending and not self._stop.is_set():
                outcome = pool.next(timeout_s=LOOK_EVERY_S)
                if outcome is not None:
                    results = outcome.result or _lost(outcome.item, str(outcome.error))
                    ledger.add({"scope": entrant.scope, "step": step} | asdict(result) for result in results)
        finally:
            policy.stop()
        if not self._stop.is_set():
            self._say(ledger, entrant, step)

    def _say(self, ledger: Ledger, entrant: Entrant, step: int) -> None:
        mine = [record for record in ledger.records if record["scope"] == entrant.scope]
        now = [record for record in mine if record["step"] == step]
        if now and all(record["error"] for record in now):
            raise UserError(f"none of {len(now)} validation episodes could be run; the first: {now[0]['detail']}")
        successes = sum(record["success"] for record in now)
        name = "" if entrant.scope == "all" else f"{entrant.scope}: "
        self._context.progress(f"{name}step {step} succeeds in {successes} of {len(now)} validation rollouts")
        prune(entrant.folder, mine, self._finished(ledger, entrant, {record["step"] for record in mine}))

    def _finished(self, ledger: Ledger, entrant: Entrant, steps: set[int]) -> list[int]:
        return [
            step for step in steps if all(key in ledger for _, _, keys in self._groups(entrant, step) for key in keys)
        ]


def check_place(resources: ResourceConfig) -> None:
    """UserError if all GPUs train, so that none is left for a policy that acts."""
    if resources.device == "cuda" and resources.num_gpus <= resources.train_workers:
        raise UserError(
            f"stage2.rollouts_every needs a GPU beside the {resources.train_workers} of training; set"
            f" resources.policy_workers below resources.num_gpus ({resources.num_gpus}), or stage2.rollouts_every to 0"
        )


def load_candidate(folder: Path, resources: ResourceConfig, euler_steps: int) -> Inference:
    """A candidate in the process that is to run it."""
    import torch

    from blm.model.predictor import load_policy_for

    if resources.device == "cpu":
        os.nice(NICE)
    return load_policy_for(
        depot.here(folder), device=resources.device, dtype=getattr(torch, resources.dtype), euler_steps=euler_steps
    )


def read_rollouts(out: Path) -> list[Record]:
    """All validation rollouts of a stage's folder, in the order in which they came."""
    with _open(out) as ledger:
        return ledger.records


def _open(out: Path) -> Ledger:
    return Ledger(out / "rollouts.jsonl", KEY)


def _lost(item: _Item, error: str) -> list[EpisodeResult]:
    """Results of episodes whose processes died again and again."""
    return [
        EpisodeResult(
            cell=item.cell.name,
            seed=seed,
            policy="candidate",
            instruction=instruction_for(item.cell.task_data, seed),
            success=False,
            failure=Failure.WORKER_LOST,
            error=True,
            detail=error,
        )
        for seed in item.seeds
    ]
