"""`blm bench collect`: kept demonstrations a core-minute, ours beside ManiSkill's own motion-planning examples.

Both sides are processes of their own, pinned to the same core, and take turns task by task and round by round, so that
whatever else slows the machine slows both. Counted: demonstrations that end in success, per minute of that core;
starting processes and making simulators is not timed. Panda, the tasks that both sides have, the same seeds, no
disturbances.

- states: theirs with `obs_mode="none"` and their recorder; ours with our Parquet episodes.
- pictures: theirs draws the task's one camera at every step (`obs_mode="rgb"`); ours replays the kept states and draws
  two cameras at the stride that datasets use. Both 112 px.
"""

import os
import statistics
import sys
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.benchmarks.workers import Worker, running

TASKS = ("PickCube", "PushCube", "StackCube", "PullCube", "PlaceSphere", "LiftPegUpright")
IMAGE_PX, STRIDE = 112, 2
WARM_UP_SEED = 900_000


def bench_collect(episodes: int, rounds: int, pictures: int, peer_python: Path) -> dict[str, Any]:
    """Runs it; returns the object that is printed last. UserError without the peer's environment."""
    if not peer_python.exists():
        raise UserError(
            f"{peer_python} is missing; make the environment of ManiSkill's planner first: make bench-peers"
        )
    core = max(os.sched_getaffinity(0))
    commands = {
        "theirs": [str(peer_python), str(Path(__file__).with_name("maniskill_planner.py"))],
        "ours": [sys.executable, "-m", "blm.pipelines.benchmarks.ours"],
    }
    results: dict[str, dict[str, Any]] = {"states": {}, "pictures": {}}
    with running(commands, dict.fromkeys(commands, core)) as workers:
        for kind, image_px, count in (("states", 0, episodes), ("pictures", IMAGE_PX, pictures)):
            print(f"\ndemonstrations kept with {kind}, a core-minute\n{_HEAD}", flush=True)
            for task in TASKS:
                results[kind][task] = row = _task(workers, task, image_px, count, min(rounds, count))
                print(_line(task, row), flush=True)
    return _summary(results, episodes, rounds, pictures)


_HEAD = f"{'task':<16}{'ours':>8}{'theirs':>8}{'ratio':>8}   first plan ours, theirs   median steps ours, theirs"


def _line(task: str, row: dict[str, Any]) -> str:
    ours, theirs = row["ours"], row["theirs"]
    ratio = f"{row['ratio']:>8.2f}" if row["ratio"] is not None else f"{'none':>8}"
    return (
        f"{task:<16}{ours['per_core_minute']:>8.0f}{theirs['per_core_minute']:>8.0f}{ratio}"
        f"   {ours['first_plan_rate']:>10.0%} {theirs['first_plan_rate']:>8.0%}"
        f"       {ours['median_steps']:>10.0f} {theirs['median_steps']:>8.0f}"
    )


def _task(workers: dict[str, Worker], task: str, image_px: int, count: int, rounds: int) -> dict[str, Any]:
    request: dict[str, Any] = {"task": task, "image_px": image_px, "stride": STRIDE}
    for worker in workers.values():
        worker.ask(request | {"seeds": [WARM_UP_SEED]})
    answers: dict[str, list[dict[str, Any]]] = {side: [] for side in workers}
    per_round = count // rounds
    for turn in range(rounds):
        seeds = list(range(turn * per_round, (turn + 1) * per_round))
        for side in sorted(workers, reverse=turn % 2 == 1):
            answers[side].append(workers[side].ask(request | {"seeds": seeds}))
    row: dict[str, Any] = {side: _totals(found, per_round * rounds) for side, found in answers.items()}
    ours, theirs = row["ours"]["per_core_minute"], row["theirs"]["per_core_minute"]
    row["ratio"] = round(ours / theirs, 2) if theirs else None
    return row


def _totals(answers: list[dict[str, Any]], tried: int) -> dict[str, float]:
    kept, wall_s = sum(one["kept"] for one in answers), sum(one["wall_s"] for one in answers)
    steps = [step for one in answers for step in one["steps"]]
    return {
        "per_core_minute": round(60 * kept / wall_s, 1),
        "first_plan_rate": round(sum(one["first_plan"] for one in answers) / tried, 4),
        "kept": kept,
        "tried": tried,
        "median_steps": statistics.median(steps) if steps else 0,
    }


def _summary(results: dict[str, dict[str, Any]], episodes: int, rounds: int, pictures: int) -> dict[str, Any]:
    ratios = {kind: [row["ratio"] for row in rows.values() if row["ratio"]] for kind, rows in results.items()}
    return {
        "bench": "collect",
        "method": f"{episodes} seeds a task for states and {pictures} with pictures, in {rounds} alternating rounds; "
        "Panda; both sides pinned to one core; ratios of kept demonstrations a core-minute, median over tasks",
        "ratio": round(statistics.median(ratios["pictures"]), 2),
        "ratio_states": round(statistics.median(ratios["states"]), 2),
        "lowest_ratio": min(ratios["pictures"]),
        "lowest_ratio_states": min(ratios["states"]),
        "results": results,
    }
