"""The physical part of `evaluate`: which episodes are run, by which actors, and which of them are filmed.

One policy after another acts, and of a policy with several models one model after another, so that no more than one
has to be in memory. The simulators stay.
"""

import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from blm.actors.rollout import RolloutItem, RolloutWorker, VideoItem, episode_file
from blm.actors.sim.outcome import EpisodeResult, Failure
from blm.actors.sim.policies import Policy, RandomPolicy
from blm.actors.sim.tasks import instruction_for
from blm.actors.sim.world import Cell, seed_range
from blm.model.errors import UserError
from blm.pipelines.evaluation.contestants import OURS, Contestant, check_model, contestants, load_contestant
from blm.pipelines.ledger import Ledger, Record
from blm.pipelines.workspace import StageContext

if TYPE_CHECKING:  # Ray is imported when rollouts start: the command line imports this on every call
    from blm.actors.pool import WorkPool
    from blm.pipelines.evaluate import EvaluateConfig

KEY = ("cell", "seed", "policy")
PROGRESS_EVERY_S = 5.0


def run_rollouts(config: "EvaluateConfig", context: StageContext, ledger: Ledger) -> dict[str, Any]:
    """Run the episodes that are not in the ledger, film some, and return how long it took.

    UserError if a model does not fit the world, or if every episode of a trained policy ended in an error.
    """
    acting = contestants(config, context)
    for contestant in acting:
        if contestant.folder is not None:
            check_model(config, context, contestant.folder, contestant.cells)
    if len(ledger):
        context.progress(f"{len(ledger)} episodes were run before")
    with _workers(config, context) as pool:
        started_s = time.perf_counter()
        for contestant in acting:
            if waiting := list(_missing(config, context, ledger, contestant)):
                with _serving(config, context, contestant) as servers:
                    items = [
                        replace(item, acting=server)
                        for item, server in zip(waiting, itertools.cycle(servers), strict=False)
                    ]
                    _run(config, context, ledger, pool, items)
        wall_s = time.perf_counter() - started_s
        for policy in dict.fromkeys(contestant.policy for contestant in acting):
            _require_some(policy, [record for record in ledger.records if record["policy"] == policy])
        _film(config, context, [record for record in ledger.records if record["policy"] == OURS], pool)
        deaths = pool.deaths
    return {"rollouts_s": round(wall_s, 1), "worker_deaths": deaths}


def _require_some(policy: str, results: Sequence[Record]) -> None:
    if results and all(record["error"] for record in results):
        raise UserError(f"none of {len(results)} episodes of {policy} could be run; the first: {results[0]['detail']}")


# ------------------------------------------------------------------------------------------------------------ episodes


def _missing(
    config: "EvaluateConfig", context: StageContext, ledger: Ledger, contestant: Contestant
) -> Iterator[RolloutItem]:
    """Groups that the ledger does not hold as a whole: run in part, their batches would be others."""
    first, policy = seed_range("evaluate").start, contestant.policy
    for cell in contestant.cells:
        for start in range(first, first + contestant.episodes, config.side_by_side):
            seeds = tuple(range(start, min(start + config.side_by_side, first + contestant.episodes)))
            keys = [(cell.name, seed, policy) for seed in seeds]
            if any(key not in ledger for key in keys):
                ledger.drop(keys)
                keep = context.out / "rollouts" / cell.slug if policy == OURS else None
                yield RolloutItem(cell=cell, seeds=seeds, policy=policy, keep=keep)


def _run(
    config: "EvaluateConfig", context: StageContext, ledger: Ledger, pool: "WorkPool", items: Sequence[RolloutItem]
) -> None:
    """Run groups; their results go to the ledger as they come."""
    started_s = said_s = time.perf_counter()
    total, done = sum(len(item.seeds) for item in items), 0
    for item in items:
        pool.submit(item)
    while pool.pending:
        outcome = pool.next()
        assert outcome is not None, "waited without a limit"
        item = outcome.item
        if outcome.result is not None:
            results = outcome.result
        elif len(item.seeds) > 1:  # one scene that kills its workers must not take others along
            context.progress(f"{item.cell.name}: workers died at seeds {item.seeds}: {outcome.error}; one by one")
            for seed in item.seeds:
                pool.submit(replace(item, seeds=(seed,)))
            continue
        else:
            results = [_lost(config, item, str(outcome.error))]
        ledger.add(asdict(result) for result in results)
        done += len(results)
        now_s = time.perf_counter()
        if done == total or now_s - said_s > PROGRESS_EVERY_S:
            said_s = now_s
            rate = 60 * done / (now_s - started_s)
            context.progress(f"{item.policy}: {done}/{total} episodes, {rate:.0f} a minute")


def _lost(config: "EvaluateConfig", item: RolloutItem, error: str) -> EpisodeResult:
    """The result of an episode that nobody could bring to an end."""
    (seed,) = item.seeds
    return EpisodeResult(
        cell=item.cell.name,
        seed=seed,
        policy=item.policy,
        instruction=instruction_for(item.cell.task_data, seed, held_out=config.held_out_instructions),
        success=False,
        failure=Failure.WORKER_LOST,
        error=True,
        detail=error,
    )


# -------------------------------------------------------------------------------------------------------------- actors


@contextmanager
def _workers(config: "EvaluateConfig", context: StageContext) -> "Iterator[WorkPool]":
    """A pool of rollout actors, started when there is work."""
    import ray

    from blm.actors.pool import WorkPool

    actor = ray.remote(RolloutWorker).options(num_cpus=1)
    own = {RandomPolicy.name: RandomPolicy(config.random_scale_rad)}

    def make_actor() -> ray.actor.ActorHandle:
        return actor.remote(context.world, config.rollout, own)

    count = max(1, min(context.resources.actors, int(ray.cluster_resources().get("CPU", 1))))
    pool: WorkPool[RolloutItem | VideoItem, list[EpisodeResult]]
    with WorkPool(make_actor, actors=count) as pool:
        yield pool


@contextmanager
def _serving(
    config: "EvaluateConfig", context: StageContext, contestant: Contestant
) -> Iterator[Sequence[Policy | None]]:
    """A contestant's model in actors of its own, one a GPU or one for all CPUs; None for what workers do themselves."""
    from blm.actors.policy import RemotePolicy, start_policy

    if contestant.folder is None:
        yield [None]
        return
    resources = context.resources
    context.progress(f"loading the policy from {contestant.folder}")
    make_policy = functools.partial(
        load_contestant,
        contestant.folder,
        device=resources.device,
        dtype=resources.dtype,
        euler_steps=config.euler_steps,
        guidance=config.guidance,
    )
    gpus = resources.num_gpus if resources.device == "cuda" else 0
    servers: list[RemotePolicy] = []
    try:
        for _ in range(max(gpus, 1)):
            servers.append(start_policy(contestant.policy, make_policy, merge=config.merge, num_gpus=min(gpus, 1)))
        yield servers
    finally:
        for server in servers:
            server.stop()


# -------------------------------------------------------------------------------------------------------------- videos


def _film(config: "EvaluateConfig", context: StageContext, results: Sequence[Record], pool: "WorkPool") -> None:
    """Draw the videos that are missing, and remove those of another choice."""
    wanted = {item.out: item for item in _films(config, context, results)}
    folder = context.out / "videos"
    for path in set(folder.glob("*.mp4")) - set(wanted):
        path.unlink()
    missing = [item for path, item in wanted.items() if not path.exists()]
    for item in missing:
        pool.submit(item)
    while pool.pending:
        outcome = pool.next()
        assert outcome is not None, "waited without a limit"
        if outcome.result is None:
            context.progress(f"no video {outcome.item.out.name}: {outcome.error}")
    if missing:
        context.progress(f"{len(missing)} videos in {folder}")


def _films(config: "EvaluateConfig", context: StageContext, results: Sequence[Record]) -> Iterator[VideoItem]:
    """The first successes and the first failures of each cell, by seed. An episode with an error was not kept."""
    for cell in context.world.parsed_cells():
        mine = sorted((r for r in results if r["cell"] == cell.name and not r["error"]), key=lambda r: r["seed"])
        for success in (True, False):
            for record in [r for r in mine if r["success"] is success][: config.videos_per_cell]:
                yield _film_of(config, context, cell, record)


def _film_of(config: "EvaluateConfig", context: StageContext, cell: Cell, record: Record) -> VideoItem:
    outcome = "success" if record["success"] else "failure"
    return VideoItem(
        cell=cell,
        episode=episode_file(context.out / "rollouts" / cell.slug, record["seed"]),
        camera=config.video_camera,
        image_px=config.video_px,
        out=context.out / "videos" / f"{cell.slug}-seed{record['seed']}-{outcome}.mp4",
    )
