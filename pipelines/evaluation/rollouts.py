"""The physical part of the stage `evaluate`: all contestants one after another, and videos of some episodes of ours."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from blm.actors.rollout import VideoItem, episode_file
from blm.actors.sim.world import Cell
from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines.evaluation.arena import Arena, missing
from blm.pipelines.evaluation.books import Books
from blm.pipelines.evaluation.contestants import OURS, contestants
from blm.pipelines.evaluation.references import check
from blm.pipelines.ledger import Record
from blm.pipelines.workspace import StageContext

if TYPE_CHECKING:
    from blm.pipelines.evaluate import EvaluateConfig


def run_rollouts(config: "EvaluateConfig", context: StageContext, books: Books) -> dict[str, Any]:
    """Run the episodes that are not in the books, film some, and return how long it took.

    UserError if a model does not fit the world, or if every episode of a policy ended in an error.
    """
    acting = contestants(config, context)
    for contestant in acting:
        if missing(contestant, books):
            check(contestant.acting, config, context.world, contestant.cells)
    if len(books.episodes):
        context.progress(f"{len(books.episodes)} episodes were run before")
    with Arena(config, context.world, context.resources, context.progress) as arena:
        for contestant in acting:
            arena.run(contestant, books)
        for policy in dict.fromkeys(contestant.policy for contestant in acting):
            require_some(policy, [record for record in books.episodes.records if record["policy"] == policy])
        _film(config, context, [record for record in books.episodes.records if record["policy"] == OURS], arena)
        work = arena.work
    return {
        "rollouts_s": round(work.wall_s, 1),
        "worker_deaths": work.worker_deaths,
        "policy_restarts": work.policy_restarts,
        "time_shares": time_shares(books.timings.records),
    }


def require_some(policy: str, results: Sequence[Record]) -> None:
    """UserError if there are results of a policy, and nothing but errors among them."""
    if results and all(record["error"] for record in results):
        raise UserError(f"none of {len(results)} episodes of {policy} could be run; the first: {results[0]['detail']}")


def time_shares(timings: Sequence[Record]) -> dict[str, float]:
    """Of the simulator processes' time, the shares of physics, drawing, and waiting for the policy."""
    total: Counter[str] = Counter()
    for record in timings:
        total.update({name: record[f"{name}_s"] for name in ("physics", "render", "wait")})
    whole = total.total()
    return {name: round(seconds / whole, 3) for name, seconds in total.items()} if whole else {}


# -------------------------------------------------------------------------------------------------------------- videos


def _film(config: "EvaluateConfig", context: StageContext, results: Sequence[Record], arena: Arena) -> None:
    """Draw the videos that are missing, and remove those of another choice."""
    wanted = {item.out: item for item in films(config, context, results)}
    folder = context.out / "videos"
    for path in set(folder.glob("*.mp4")) - set(wanted):
        depot.drop(path)
    missing = [item for path, item in wanted.items() if not path.exists()]
    for item, why in arena.film(missing):
        context.progress(f"no video {item.out.name}: {why}")
    if missing:
        depot.here(folder)
        context.progress(f"{len(missing)} videos in {folder}")


def films(config: "EvaluateConfig", context: StageContext, results: Sequence[Record]) -> Iterator[VideoItem]:
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
