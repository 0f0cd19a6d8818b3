"""Where policies act: simulators in parallel actors, and one policy after another that acts in all of them.

One policy at a time, and of a policy with several models one model at a time, so that no more than one has to be in
memory. The simulator processes stay. How many there are is told, or with `resources.actors: auto` found out: the
first one is watched for some seconds (`capacity.py`).
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from blm.actors.leases import Leases
from blm.actors.rollout import Acting, Ended, RolloutWorker, VideoItem
from blm.actors.sim.outcome import EpisodeResult, EpisodeTiming, Failure, RolloutItem
from blm.actors.sim.tasks import instruction_for
from blm.actors.sim.world import WorldConfig
from blm.cluster import nodes
from blm.cluster.asks import asked
from blm.pipelines.evaluation.books import Books
from blm.pipelines.evaluation.capacity import Watch, choose_actors
from blm.pipelines.evaluation.contestants import Contestant
from blm.pipelines.evaluation.lines import Rate
from blm.pipelines.evaluation.references import OtherPolicy, is_folder, load_checkpoint, make_in_worker
from blm.pipelines.workspace import ResourceConfig

if TYPE_CHECKING:  # Ray is imported when rollouts start: the command line imports this on every call
    from ray.actor import ActorHandle

    from blm.actors.lease_pool import Batch, LeasePool
    from blm.actors.policy import RemotePolicy
    from blm.pipelines.evaluate import EvaluateConfig

SILENCE_S = 150.0
"""An actor's own watchdog ends what hangs somewhat earlier, unless that holds on to Python's lock."""
SIMULATOR = asked("evaluate", "simulator")
POLICY_LIMITS = 4
"""Limits of the policy that one round of an actor may wait through: its request in company, alone, and a restart."""


@dataclass(kw_only=True, slots=True)
class Work:
    """What was done so far."""

    wall_s: float = 0.0
    """Time in rollouts."""
    worker_deaths: int = 0
    """Simulator processes that died."""
    policy_restarts: int = 0
    """Policy processes that hung or died."""
    actors: int = 0
    """Simulator processes, at most."""


class Arena:
    """The simulator processes of an evaluation. A context manager; nothing starts before there is work."""

    def __init__(
        self, config: "EvaluateConfig", world: WorldConfig, resources: ResourceConfig, say: Callable[[str], None]
    ) -> None:
        """config: its options of rollouts. say: tells the person watching."""
        self._config, self._world, self._resources, self._say = config, world, resources, say
        self._pool: LeasePool[RolloutItem, Ended] | None = None
        self._stage = ExitStack()
        self._on_stage: tuple[OtherPolicy, Acting, RemotePolicy | None] | None = None
        self._chosen = 0
        self.work = Work()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear_stage()
        if self._pool is not None:
            self._pool.close()

    def run(self, contestant: Contestant, books: Books) -> None:
        """Let one act in every scene that the books do not have. UserError if it cannot be loaded or asked.

        It stays loaded until another one acts.
        """
        items = missing(contestant, books)
        if not items:
            return
        pool = self._started()
        began_s = time.perf_counter()
        acting, server = self._enter(contestant.acting)
        restarts = server.load().restarts if server is not None else 0
        watch = Watch() if self._resources.actors == "auto" and not self._chosen else None
        pool.size = 1 if watch is not None else self._chosen or self._most()
        said = Rate(self._say, contestant.policy, len(items))
        for batch in pool.run(acting, Leases(items, group=_cell_of)):
            lost = [self._lost(contestant, item, why) for item, why in batch.lost]
            books.add([ended for _, ended in batch.done] + lost)
            said.more(len(batch.done) + len(lost))
            if watch is not None and self._watched(watch, batch, pool, server):
                watch = None
        self.work.actors = max(self.work.actors, pool.size)
        self.work.policy_restarts += server.load().restarts - restarts if server is not None else 0
        self.work.wall_s += time.perf_counter() - began_s
        self.work.worker_deaths = pool.deaths

    def film(self, items: Sequence[VideoItem]) -> Iterator[tuple[VideoItem, str]]:
        """Draw videos. Yields those that could not be drawn, and why. Nothing can be run afterwards."""
        if not items:
            return
        from blm.actors.pool import WorkPool

        self._clear_stage()
        idle = self._pool.hand_over() if self._pool is not None else []
        with WorkPool[VideoItem, bool](self._make_actor, actors=max(len(idle), self._most()), idle=idle) as pool:
            for item in items:
                pool.submit(item)
            while pool.pending:
                outcome = pool.next()
                assert outcome is not None, "waited without a limit"
                if outcome.error is not None:
                    yield outcome.item, outcome.error

    def _make_actor(self) -> "ActorHandle":
        import ray

        actor = ray.remote(RolloutWorker).options(**nodes.options(SIMULATOR))
        return actor.remote(self._world, self._config.rollout, self._config.side_by_side)

    def _started(self) -> "LeasePool[RolloutItem, Ended]":
        from blm.actors.lease_pool import LeasePool

        if self._pool is None:
            slots, limit_s = self._config.side_by_side, SILENCE_S + POLICY_LIMITS * self._config.policy_limit_s
            self._pool = LeasePool(self._make_actor, actors=self._most(), slots=slots, limit_s=limit_s)
        return self._pool

    def _most(self) -> int:
        """Simulator processes that the cluster has room for."""
        return nodes.fitting(self._resources.actors, SIMULATOR)

    def _watched(
        self, watch: Watch, batch: "Batch[RolloutItem, Ended]", pool: "LeasePool", server: "RemotePolicy | None"
    ) -> bool:
        """Whether the first actor has been watched for long enough; then there are as many as were chosen."""
        import ray

        watch.add(batch.looks, batch.work_s, batch.wait_s)
        if not watch.enough:
            return False
        load = server.load() if server is not None else None
        answer_s = load.busy_s / load.answers if load is not None and load.answers else watch.wait_s / watch.looks
        choice = choose_actors(
            work_s=watch.work_s / watch.looks,
            answer_s=answer_s,
            servers=self._processes(),
            cpus=nodes.fitting("auto", SIMULATOR),
            memory_bytes=ray.cluster_resources().get("memory", float("inf")),
        )
        self._say(choice.why)
        pool.size = self._chosen = choice.actors
        return True

    def _processes(self) -> int:
        """Processes that have the policy: one a GPU, or one for all CPUs."""
        return max(self._resources.num_gpus, 1) if self._resources.device == "cuda" else 1

    def _enter(self, policy: OtherPolicy) -> "tuple[Acting, RemotePolicy | None]":
        """A policy's model in processes of its own; or what the simulator processes make themselves."""
        if self._on_stage is None or self._on_stage[0] != policy:
            self._clear_stage()
            if is_folder(policy.policy):
                server = self._serve(policy)
                self._stage.callback(server.stop)
                self._on_stage = policy, Acting(name=policy.name, make_policy=lambda: server), server
            else:
                make_policy = make_in_worker(policy, self._config)
                self._on_stage = policy, Acting(name=policy.name, make_policy=make_policy), None
        return self._on_stage[1:]

    def _serve(self, policy: OtherPolicy) -> "RemotePolicy":
        from blm.actors.policy import ServingOptions, start_policy

        config, folder = self._config, Path(policy.policy)
        self._say(f"loading the policy from {folder}")
        options = ServingOptions(
            processes=self._processes(),
            ask=asked("evaluate", "policy", device=self._resources.device),
            merge=config.merge,
            wait_s=config.wait_ms / 1000,
            limit_s=config.policy_limit_s,
        )
        return start_policy(policy.name, functools.partial(load_checkpoint, folder, config, self._resources), options)

    def _clear_stage(self) -> None:
        self._stage.close()
        self._on_stage, self._chosen = None, 0

    def _lost(self, contestant: Contestant, item: RolloutItem, why: str) -> Ended:
        """The result of an episode that nobody could bring to an end."""
        held_out = self._config.held_out_instructions
        result = EpisodeResult(
            cell=item.cell.name,
            seed=item.seed,
            policy=contestant.policy,
            instruction=instruction_for(item.cell.task_data, item.seed, held_out=held_out),
            success=False,
            failure=Failure.WORKER_LOST,
            error=True,
            detail=why,
            backend=f"cpu, {self._world.geometry}",
        )
        return result, EpisodeTiming(cell=item.cell.name, seed=item.seed, policy=contestant.policy)


def _cell_of(item: RolloutItem) -> str:
    return item.cell.name


def missing(contestant: Contestant, books: Books) -> list[RolloutItem]:
    """Episodes of a contestant that the books do not have, cell by cell."""
    return [
        RolloutItem(cell=cell, seed=seed, keep=contestant.keep / cell.slug if contestant.keep is not None else None)
        for cell in contestant.cells
        for seed in contestant.seeds
        if (cell.name, seed, contestant.policy) not in books.episodes
    ]
