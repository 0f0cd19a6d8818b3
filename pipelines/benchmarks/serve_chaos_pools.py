"""The parts of `blm bench serve-chaos` about pools of replicas: one that sleeps, one that helps, one apart."""

import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from blm.pipelines.benchmarks.serve_chaos_load import bodies_for, robots_at_work
from blm.pipelines.benchmarks.serve_chaos_server import CONFIG, bad, metrics, processes, say, told, wait_for
from blm.pipelines.benchmarks.serve_http import connect
from blm.pipelines.benchmarks.serve_people import converse, question
from blm.pipelines.benchmarks.serve_processes import Served, started_blm

SLEEPY = {"min": 0, "max": 1, "ongoing": 3.0, "more_after_s": 0.5, "fewer_after_s": 4.0}
ROBOTS = 8
WORK_S = 10.0
_OVERFLOWED = re.compile(r"blm_overflowed_total\{[^}]*\} (\S+)")


def from_zero(folder: Path, scratch: Path) -> dict[str, Any]:
    """Replicas that hold the policy alone, none while nobody asks: they go, and who asks then waits for one."""
    config = {**CONFIG, "chat": {"enabled": False}, "model": SLEEPY}
    with started_blm(folder, config, scratch, "zero") as server:
        bodies = bodies_for(server.url)
        asleep_s = wait_for(lambda: not processes(server, "model"), "the last replica to go")
        began_s = time.perf_counter()
        with robots_at_work(server.url, http=1, bodies=bodies) as load:
            wait_for(lambda: bool(load.ended), "an answer")
            woken_s = round(time.perf_counter() - began_s, 1)
            time.sleep(3)
        found = load.since()
    return told("zero", {"asleep_s": asleep_s, "woken_s": woken_s, "failed": bad(found), "robots": found})


def overflow(folder: Path, scratch: Path) -> dict[str, Any]:
    """One whole replica, and more robots than it answers in time: control replicas come from nothing, and go."""
    batches = {"overflow_ms": 20.0}
    config = {**CONFIG, "batches": batches, "model": {"min": 1, "max": 1}, "control": SLEEPY, "overflow": True}
    with started_blm(folder, config, scratch, "overflow") as server:
        say(f"server with overflow ready after {server.start_s:.0f} s")
        with robots_at_work(server.url, http=ROBOTS) as load:
            up_s = wait_for(lambda: handed_on(server) > 0, "observations to be handed on")
            alone = load.since()
            began_s = time.perf_counter()
            time.sleep(WORK_S)
            helped = load.since(began_s)
        count = handed_on(server)
        down_s = wait_for(lambda: not processes(server, "control"), "the control replica to go")
    times = {"up_s": up_s, "down_s": down_s, "handed_on": count}
    return told("overflow", {**times, "failed": bad(alone) + bad(helped), "alone": alone, "helped": helped})


def handed_on(server: Served) -> int:
    """Observations that whole replicas have handed to control replicas."""
    return int(sum(float(found[1]) for line in metrics(server) if (found := _OVERFLOWED.match(line))))


def policy_apart(folder: Path, scratch: Path) -> dict[str, Any]:
    """Conversation in one replica, the policy in another one of its own: both answer."""
    config = {**CONFIG, "model": {"min": 1, "max": 1}, "control": {"min": 1, "max": 1}, "actions": {"apart": True}}
    with started_blm(folder, config, scratch, "apart") as server:
        say(f"server with the policy apart ready after {server.start_s:.0f} s")
        with robots_at_work(server.url, http=2, blm=2) as load, closing(connect(server.url)) as connection:
            tokens = [converse(connection, question(number, 112, 16))["tokens"] for number in range(8)]
            time.sleep(3)
        found = load.since()
    return told("apart", {"failed": bad(found), "robots": found, "conversations": len(tokens), "tokens": sum(tokens)})
