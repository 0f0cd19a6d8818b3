"""An evaluation in a few lines of text, for the person watching."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from blm.actors.sim.policies import RandomPolicy
from blm.pipelines.evaluation.contestants import OURS

PROGRESS_EVERY_S = 5.0


def table_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line a cell and policy, under a head. `rows`: the `cells` of a summary."""
    if not rows:
        return []
    cell, policy = (max(len(str(row[name])) for row in rows) + 2 for name in ("cell", "policy"))
    head = (
        f"{'cell':<{cell}}{'policy':<{policy}}{'success':>9}{'95 % interval':>17}{'episodes':>10}{'steps':>7}  failures"
    )
    lines = [head]
    for row in rows:
        interval = f"{row['low']:.0%} to {row['high']:.0%}"
        steps = "-" if row["median_steps"] is None else f"{row['median_steps']:.0f}"
        failures = ", ".join(f"{reason} {count}" for reason, count in row["failures"].items()) or "none"
        lines.append(
            f"{row['cell']:<{cell}}{row['policy']:<{policy}}{row['rate']:>9.1%}{interval:>17}{row['episodes']:>10}{steps:>7}"
            f"  {failures}"
        )
    return lines


def comparison_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each other trained policy: scenes that one alone did, and McNemar's p. `rows`: a summary's
    `compared`.
    """
    return [
        f"{OURS} against {row['policy']} in {row['pairs']} same scenes: {row['only_first']} done by {OURS}"
        f" alone, {row['only_second']} by {row['policy']} alone, McNemar's exact p = {row['p']:.3g}"
        for row in rows
        if row["cell"] == "all" and row["policy"] != RandomPolicy.name
    ]


class Rate:
    """Tells now and then how far a contestant is."""

    def __init__(self, say: Callable[[str], None], policy: str, total: int) -> None:
        self._say, self._policy, self._total = say, policy, total
        self._done, self._began_s = 0, time.perf_counter()
        self._said_s = self._began_s

    def more(self, episodes: int) -> None:
        """So many more are done."""
        self._done += episodes
        now_s = time.perf_counter()
        if episodes and (self._done == self._total or now_s - self._said_s > PROGRESS_EVERY_S):
            self._said_s = now_s
            rate = 60 * self._done / (now_s - self._began_s)
            self._say(f"{self._policy}: {self._done}/{self._total} episodes, {rate:.0f} a minute")
