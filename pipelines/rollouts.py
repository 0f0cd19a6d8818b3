"""The physical part of `evaluate`: which episodes are run, by which actors, and which of them are filmed."""

import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blm.actors.rollout import RolloutItem, RolloutWorker, VideoItem, episode_file
from blm.actors.sim.outcome import EpisodeResult, Failure
from blm.actors.sim.policies import Policy, RandomPolicy
from blm.actors.sim.tasks import instruction_for
from blm.actors.sim.world import Cell, seed_range
from blm.model.errors import UserError
from blm.pipelines.ledger import Ledger, Record
from blm.pipelines.workspace import ResourceConfig, StageContext

if TYPE_CHECKING:  # Ray and the model are imported when rollouts start: the command line imports this on every call
    from blm.actors.pool import WorkPool
    from blm.model.predictor import BlmPolicy
    from blm.pipelines.evaluate import EvaluateConfig

OURS = "blm"
KEY = ("cell", "seed", "policy")
PROGRESS_EVERY_S = 5.0


def run_rollouts(config: "EvaluateConfig", context: StageContext, ledger: Ledger) -> dict[str, Any]:
    """Run the episodes that are not in the ledger, film some, and return how long it took.

    UserError if the model does not fit the world, or if every one of its episodes ended in an error.
    """
    waiting = list(_missing(config, context, ledger))
    if len(ledger):
        context.progress(f"{len(ledger)} episodes were run before")
    ours = any(item.policy == OURS for item in waiting)
    with _workers(config, context, ours=ours) as pool:
        started_s = time.perf_counter()
        _run(config, context, ledger, pool, waiting)
        wall_s = time.perf_counter() - started_s
        results = [record for record in ledger.records if record["policy"] == OURS]
        if results and all(record["error"] for record in results):
            raise UserError(f"none of {len(results)} episodes could be run; the first: {results[0]['detail']}")
        _film(config, context, results, pool)
        deaths = pool.deaths
    return {"rollouts_s": round(wall_s, 1), "worker_deaths": deaths}


# ------------------------------------------------------------------------------------------------------------ episodes


def _missing(config: "EvaluateConfig", context: StageContext, ledger: Ledger) -> Iterator[RolloutItem]:
    """Groups that the ledger does not hold as a whole: run in part, their batches would be others."""
    first = seed_range("evaluate").start
    counts = {OURS: config.episodes_per_cell, RandomPolicy.name: config.random_episodes_per_cell}
    for cell in context.world.parsed_cells():
        for policy, count in counts.items():
            for start in range(first, first + count, config.side_by_side):
                seeds = tuple(range(start, min(start + config.side_by_side, first + count)))
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
                pool.submit(RolloutItem(cell=item.cell, seeds=(seed,), policy=item.policy, keep=item.keep))
            continue
        else:
            results = [_lost(config, item, str(outcome.error))]
        ledger.add(asdict(result) for result in results)
        done += len(results)
        now_s = time.perf_counter()
        if done == total or now_s - said_s > PROGRESS_EVERY_S:
            said_s = now_s
            rate = 60 * done / (now_s - started_s)
            context.progress(f"{done}/{total} episodes, {rate:.0f} a minute")


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
def _workers(config: "EvaluateConfig", context: StageContext, *, ours: bool) -> "Iterator[WorkPool]":
    """A pool of rollout actors, started when there is work, and the policy's actors if `ours` is to act."""
    import ray

    from blm.actors.policy import RemotePolicy, start_policy
    from blm.actors.pool import WorkPool

    resources = context.resources
    random = RandomPolicy(config.random_scale_rad)
    policies: list[RemotePolicy] = []
    if ours:
        folder = context.inputs["stage2"] / "model"
        check_model(config, context, folder)
        context.progress(f"loading the policy from {folder}")
        make_policy = functools.partial(_load_policy, folder, resources, config.euler_steps)
        gpus = resources.num_gpus if resources.device == "cuda" else 0
        for _ in range(max(gpus, 1)):
            policies.append(start_policy(OURS, make_policy, merge=config.merge, num_gpus=min(gpus, 1)))
    serving = itertools.cycle(policies or [None])
    actor = ray.remote(RolloutWorker).options(num_cpus=1)

    def make_actor() -> ray.actor.ActorHandle:
        own = next(serving)
        acting: dict[str, Policy] = {RandomPolicy.name: random} | ({OURS: own} if own is not None else {})
        return actor.remote(context.world, config.rollout, acting)

    count = max(1, min(resources.actors, int(ray.cluster_resources().get("CPU", 1))))
    try:
        pool: WorkPool[RolloutItem | VideoItem, list[EpisodeResult]]
        with WorkPool(make_actor, actors=count) as pool:
            yield pool
    finally:
        for policy in policies:
            policy.stop()


def _load_policy(folder: Path, resources: ResourceConfig, euler_steps: int) -> "BlmPolicy":
    """Our policy, in the process that is to run it."""
    import torch

    from blm.model.predictor import BlmPolicy

    dtype = getattr(torch, resources.dtype)
    return BlmPolicy.load(folder, device=resources.device, dtype=dtype, euler_steps=euler_steps)


def check_model(config: "EvaluateConfig", context: StageContext, folder: Path) -> None:
    """UserError unless the model in `folder` knows the robots and sees through the cameras of the world."""
    from blm.model.checkpoint import read_contract

    contract, world = read_contract(folder), context.world
    robots = {cell.robot for cell in world.parsed_cells()}
    if unknown := sorted(robots - set(contract.embodiments)):
        raise UserError(f"{folder} was not trained for {unknown[0]}; it knows {', '.join(contract.embodiments)}")
    if missing := [camera for camera in contract.cameras if camera not in world.cameras]:
        raise UserError(f"{folder} needs camera {missing[0]!r}; set world.cameras={list(contract.cameras)}")
    if contract.image_px != world.image_px:
        raise UserError(f"{folder} needs pictures of {contract.image_px} px; set world.image_px={contract.image_px}")
    if config.execute_steps > contract.policy.chunk:
        raise UserError(
            f"evaluate.execute_steps is {config.execute_steps}; {folder} predicts chunks of {contract.policy.chunk}"
        )


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
