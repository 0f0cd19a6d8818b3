"""`blm bench scaling`: what a second worker process brings, for data, rollouts and control.

Each is measured with one process on a core of its own, then with two at once on two cores, by turns. Efficiency is the
rate of two over twice that of one; below 1 is what processes take from one another: memory bandwidth, caches, and
whatever else the machine does. Give it a quiet one.

- data: demonstrations planned, executed and kept, and their pictures drawn (as `blm bench collect`)
- rollouts: control steps in closed loop, pictures drawn once a chunk (as `blm bench rollout`)
- control: answers of a policy in the preset's size to observations of mixed robots, as one replica computes them
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.benchmarks.serve_checkpoint import make_checkpoint
from blm.pipelines.benchmarks.workers import Worker, running
from blm.pipelines.memory import machine

GOAL = 0.85
WARM_UP_SEED = 900_000
TASKS = ("PickCube", "PushCube")
SEEDS_A_SECOND = 6.0
"""Demonstrations with pictures that a core makes, roughly: how much work `seconds` is."""

Ask = Callable[[int, float], dict[str, Any]]
"""(turn, seconds) -> what a process is asked to do."""


def bench_scaling(seconds: float, rounds: int, preset: str) -> dict[str, Any]:
    """Runs it, `seconds` a turn; returns the object that is printed last. UserError on one core."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise UserError("blm bench scaling compares one process with two, and this machine gives it one core")
    print(f"{'':<10}{'one process':>16}{'two processes':>16}{'efficiency':>12}")
    with tempfile.TemporaryDirectory(prefix="blm-bench-scaling-") as folder:
        checkpoint = make_checkpoint(Path(folder), preset, "cpu")
        results = {
            "data": _measured("data", "ours", _data, "kept", cores, seconds, rounds),
            "rollouts": _measured("rollouts", "rollout_worker", _rollouts, "steps", cores, seconds, rounds),
            "control": _measured("control", "control_worker", _control(checkpoint), "rows", cores, seconds, rounds),
        }
    return {
        "bench": "scaling",
        "method": f"one process on a core and two on two, by turns, {seconds:g} s a turn, {rounds} rounds; efficiency"
        " is the median over rounds of the rate of two over twice that of one",
        "machine": machine(),
        "goal": GOAL,
        "met": all(row["efficiency"] >= GOAL for row in results.values()),
        **{name: row["efficiency"] for name, row in results.items()},
        "results": results,
    }


def _data(turn: int, seconds: float) -> dict[str, Any]:
    """Demonstrations with pictures of seeds that no other turn has; none of them takes long: a warm-up."""
    count = max(1, round(seconds * SEEDS_A_SECOND))
    first = WARM_UP_SEED if turn < 0 else turn * count
    seeds = list(range(first, first + (count if turn >= 0 else 1)))
    return {"task": TASKS[turn % len(TASKS)], "seeds": seeds, "image_px": 112, "stride": 2}


def _rollouts(turn: int, seconds: float) -> dict[str, Any]:
    return {"case": "ours", "seconds": 0.0 if turn < 0 else seconds}


def _control(checkpoint: Path) -> Ask:
    def ask(turn: int, seconds: float) -> dict[str, Any]:
        return {"policy": str(checkpoint), "seconds": 0.0 if turn < 0 else seconds}

    return ask


def _measured(
    name: str, module: str, ask: Ask, counted: str, cores: Sequence[int], seconds: float, rounds: int
) -> dict[str, Any]:
    """Rates of one process and of two."""
    command = [sys.executable, "-m", f"{__package__}.{module}"]
    names = {f"worker {index}": core for index, core in enumerate(cores)}
    with running(dict.fromkeys(names, command), names) as found:
        several = list(found.values())
        for task in range(len(TASKS)):
            _together(several, ask(task - len(TASKS), seconds), counted)
        turns = [_round(several, ask, counted, turn, seconds) for turn in range(rounds)]
    one, two = (statistics.median(turn[index] for turn in turns) for index in (0, 1))
    efficiency = round(statistics.median(turn[1] / (2 * turn[0]) for turn in turns), 3)
    print(f"{name:<10}{one:>12.2f} a s{two:>12.2f} a s{efficiency:>12.2f}", flush=True)
    return {
        "one_per_s": round(one, 3),
        "two_per_s": round(two, 3),
        "efficiency": efficiency,
        "rounds": [round(turn[1] / (2 * turn[0]), 3) for turn in turns],
    }


def _round(workers: Sequence[Worker], ask: Ask, counted: str, turn: int, seconds: float) -> tuple[float, float]:
    """Rate of one process, each alone in turn, and of both at once: the same work in both."""
    request = ask(turn, seconds)
    alone = [_together([worker], request, counted) for worker in workers]
    return sum(alone) / len(alone), _together(workers, request, counted)


def _together(workers: Sequence[Worker], request: dict[str, Any], counted: str) -> float:
    """Sum of the rates of processes that work at the same time."""
    for worker in workers:
        worker.send(request)
    answers = [worker.receive() for worker in workers]
    return float(sum(answer[counted] / max(answer["wall_s"], 1e-9) for answer in answers))
