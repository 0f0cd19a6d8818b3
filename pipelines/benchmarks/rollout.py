"""`blm bench rollout`: control steps a second and episodes an hour, ManiSkill's loop and ours side by side.

All sides are one process pinned to one core, act the same without thinking (PickCube, Panda, to the task's time limit)
and take turns, so that whatever else slows the machine slows all of them:

- stock: `gym.make("PickCube-v1", obs_mode="rgb")`, the official Panda, its one camera drawn at every step;
- the same, drawn once a chunk of 8 actions; and the same with our light robot and table, drawn at every step;
- ours: once a chunk and light, in our loop, with one camera and with two; and with nothing drawn at all.

Then two processes of ours against one, each on a core of its own; and, given a checkpoint, where the time of an
evaluation goes whose policy thinks in the same process.
"""

import os
import sys
from pathlib import Path
from typing import Any

from blm.actors.sim.tasks import TASKS
from blm.pipelines.benchmarks.workers import Worker, running

CASES = (
    "stock",
    "stock, drawn once a chunk",
    "stock, light geometry",
    "ours",
    "ours, two cameras",
    "ours, nothing drawn",
)
"""As `rollout_worker.CASES` has them, which only the workers import."""
TURNS = 2
SLOTS = 10
STEPS = TASKS["PickCube"].max_steps


def bench_rollout(seconds: float, policy: Path | None) -> dict[str, Any]:
    """Runs it, `seconds` a case; returns the object that is printed last. policy: a checkpoint folder."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    command = [sys.executable, "-m", "blm.pipelines.benchmarks.rollout_worker"]
    names = {f"worker {index}": core for index, core in enumerate(cores)}
    with running(dict.fromkeys(names, command), names) as workers:
        several = list(workers.values())
        results = _cases(several[0], seconds)
        scaling = _scaling(several, seconds) if len(several) > 1 else None
        shares = _shares(several[0], policy, seconds) if policy is not None else None
    rate = {case: row["steps_per_s"] for case, row in results.items()}
    return {
        "bench": "rollout",
        "method": f"PickCube, Panda, a policy of zero cost, {seconds:g} s a case in {TURNS} turns, one process pinned"
        " to a core; stock: ManiSkill's own camera (128 px) drawn at every step; ours: 112 px, drawn once a chunk",
        "ratio": round(rate["ours"] / rate["stock"], 2),
        "ratio_once_a_chunk": round(rate["stock, drawn once a chunk"] / rate["stock"], 2),
        "ratio_light_geometry": round(rate["stock, light geometry"] / rate["stock"], 2),
        "ratio_two_cameras": round(rate["ours, two cameras"] / rate["stock"], 2),
        "of_nothing_drawn": round(rate["ours"] / rate["ours, nothing drawn"], 2),
        "of_nothing_drawn_two_cameras": round(rate["ours, two cameras"] / rate["ours, nothing drawn"], 2),
        "scaling_1_to_2": scaling,
        "with_policy": shares,
        "results": results,
    }


def _cases(worker: Worker, seconds: float) -> dict[str, dict[str, float]]:
    for case in CASES:
        worker.ask({"case": case, "seconds": 0.0})  # makes it
    answers: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
    for turn in range(TURNS):
        for case in CASES[:: 1 if turn % 2 == 0 else -1]:
            answers[case].append(worker.ask({"case": case, "seconds": seconds / TURNS}))
    print(f"{'':<28}{'control steps a second':>24}{'episodes an hour':>18}")
    results = {}
    for case, found in answers.items():
        results[case] = row = _rates(found)
        print(f"{case:<28}{row['steps_per_s']:>24.1f}{row['episodes_per_hour']:>18.0f}", flush=True)
    return results


def _rates(answers: list[dict[str, Any]]) -> dict[str, float]:
    per_s = sum(one["steps"] for one in answers) / sum(one["wall_s"] for one in answers)
    return {"steps_per_s": round(per_s, 2), "episodes_per_hour": round(3600 * per_s / STEPS, 1)}


def _scaling(workers: list[Worker], seconds: float) -> float:
    """Rate of two processes at once over that of one."""
    for worker in workers:
        worker.ask({"case": "ours", "seconds": 0.0})
    request = {"case": "ours", "seconds": seconds / TURNS}
    alone = _rates([workers[0].ask(request)])
    for worker in workers:
        worker.send(request)
    together = [_rates([worker.receive()]) for worker in workers]
    gain = round(sum(one["steps_per_s"] for one in together) / alone["steps_per_s"], 2)
    print(f"two processes: {gain:.2f} times one", flush=True)
    return gain


def _shares(worker: Worker, policy: Path, seconds: float) -> dict[str, float]:
    """Where the time goes with a checkpoint, `SLOTS` episodes side by side."""
    request = {"policy": str(policy), "slots": SLOTS, "seconds": seconds}
    worker.ask(request | {"seconds": 0.0})
    answer = worker.ask(request)
    spent = sum(answer["seconds"].values())
    shares = {kind: round(seconds / spent, 3) for kind, seconds in answer["seconds"].items()}
    named = {"physics": shares["physics"], "rendering": shares["render"], "inference": shares["wait"]}
    row = _rates([answer]) | named
    print(
        f"with {policy}: {row['steps_per_s']:.1f} control steps a second, {row['episodes_per_hour']:.0f} episodes an"
        f" hour; {', '.join(f'{kind} {share:.0%}' for kind, share in named.items())}",
        flush=True,
    )
    return row
