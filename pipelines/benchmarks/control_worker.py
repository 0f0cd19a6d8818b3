"""A policy that answers observations in a process of its own, by request: what one replica computes.

One JSON object a line on standard input, `{"policy", "seconds"}`, one on standard output: observations answered in
that time, in batches of `ROWS`.
"""

import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

from blm.model.predictor import load_policy_for
from blm.pipelines.benchmarks.invariance import observations
from blm.pipelines.benchmarks.workers import answer_requests

ROWS = 4
"""Observations a pass: a few robots that share a replica."""


@cache
def loaded(folder: str) -> Any:
    """The policy and what it is shown, warm."""
    policy = load_policy_for(Path(folder))
    seen = observations(policy)[:ROWS]
    policy.infer_batch(seen, range(len(seen)))
    return policy, seen


def answer(folder: str, seconds: float) -> dict[str, Any]:
    """Passes for that long."""
    policy, seen = loaded(folder)
    rows, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        rows += len(policy.infer_batch(seen, range(len(seen))))
    return {"rows": rows, "wall_s": time.perf_counter() - began_s}


def main() -> None:
    """Answers requests until standard input ends."""
    torch.set_num_threads(1)
    answer_requests(lambda request: answer(request["policy"], request["seconds"]))


if __name__ == "__main__":
    main()
