"""`blm bench serve`, actions: how long robots wait for a chunk, where that time goes, and what conversations do to it.

Robots are of different kinds and ask again as soon as they are answered. Their number changes from turn to turn, up and
down by rounds, so that whatever slows the machine meets all numbers alike.
"""

import time
from typing import Any

import numpy as np

from blm.pipelines.benchmarks.serve_chat import PAUSE_S, STREAMS, TOKENS
from blm.pipelines.benchmarks.serve_clients import Clients

CLIENTS = (1, 2, 4, 8)
"""Robots side by side."""
PARTS = ("queue_ms", "preprocess_ms", "mllm_ms", "denoise_ms")
"""What a server says of the time of an answer; in `total_ms` there is also what it says nothing of."""
LEAD_S = 2.0
"""Conversations are under way for so long before robots begin, and go on as long after."""


def measure_actions(url: str, clients: Clients, seconds: float, rounds: int) -> dict[str, Any]:
    """Latency and rate by the number of robots over WebSockets, and of one robot that posts JSON."""
    cases = [(f"{count}", count, "blm") for count in CLIENTS] + [("1, JSON", 1, "json")]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in cases}
    for turn in range(rounds):
        for name, count, protocol in cases if turn % 2 == 0 else reversed(cases):
            found[name].append(clients.act(url, clients=count, seconds=seconds, protocol=protocol))
    table = {name: summary(turns) for name, turns in found.items()}
    print_table("robots", table)
    one, eight = table["1"], table[str(CLIENTS[-1])]
    return {
        "robots": table,
        "rate_8_to_1": round(eight["per_s"] / one["per_s"], 2),
        "p95_8_to_1": round(eight["p95_ms"] / one["p95_ms"], 2),
        "p50_ms": one["p50_ms"],
    }


def measure_together(url: str, clients: Clients, seconds: float, rounds: int, image_px: int) -> dict[str, Any]:
    """One robot while nobody talks and while eight people do, by turns."""
    found: dict[str, list[dict[str, Any]]] = {"nobody talks": [], "eight talk": []}
    for turn in range(rounds):
        found["nobody talks"].append(clients.act(url, clients=1, seconds=seconds))
        first = 10**6 * (turn + 1)  # pictures that nobody has seen
        wanted = {"streams": STREAMS, "tokens": TOKENS, "image_px": image_px, "first": first}
        with clients.talking(url, **wanted, seconds=seconds + 2 * LEAD_S):
            time.sleep(LEAD_S)
            found["eight talk"].append(clients.act(url, clients=1, seconds=seconds))
        time.sleep(PAUSE_S)
    table = {name: summary(turns) for name, turns in found.items()}
    print_table("one robot", table)
    ratio = table["eight talk"]["p95_ms"] / table["nobody talks"]["p95_ms"]
    return {"robots": table, "p95_ratio": round(ratio, 2)}


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Percentiles of all answers in ms, answers a second, and medians of the parts.

    `other_ms` is the rest of the server's own time: reading, writing, the way to the model's process and back.
    `wire_ms` is what the server does not know of: the client, the network and the front door.
    """
    wall_ms = np.concatenate([turn["wall_ms"] for turn in turns])
    timing = [one for turn in turns for one in turn["timing"]]
    total_ms = np.array([one["total_ms"] for one in timing])
    p50, p95, p99 = np.percentile(wall_ms, [50, 95, 99])
    split = {part: float(np.median([one[part] for one in timing])) for part in PARTS}
    split["other_ms"] = float(np.median([one["total_ms"] - sum(one[part] for part in PARTS) for one in timing]))
    split["wire_ms"] = float(np.median(wall_ms - total_ms))
    return {
        "answers": len(wall_ms),
        "per_s": round(len(wall_ms) / sum(turn["seconds"] for turn in turns), 2),
        "p50_ms": round(float(p50), 2),
        "p95_ms": round(float(p95), 2),
        "p99_ms": round(float(p99), 2),
        "batch": round(float(np.mean([one["batch"] for one in timing])), 2),
        **{part: round(value, 2) for part, value in split.items()},
    }


def print_table(title: str, table: dict[str, dict[str, Any]]) -> None:
    """One row a case."""
    columns = list(next(iter(table.values())))
    print(f"{title:<14}" + "".join(f"{column:>14}" for column in columns))
    for name, row in table.items():
        print(f"{name:<14}" + "".join(f"{row[column]:>14}" for column in columns), flush=True)
