"""`blm bench serve-chaos`: what clients notice while replicas come and go, are replaced, overrun and killed.

blm bench serve-chaos [--model DIR] [--overload-seconds 60]

    scale      1 replica, more robots than it is meant to have: a second comes, and goes when they leave
    upgrade    `blm serve upgrade` to another folder with HTTP and WebSocket robots at work
    overload   requests at twice the rate that the server manages: who is accepted is answered, the rest is told at once
    kill       SIGKILL of one of two replicas, then of the only one
    zero       no replica while nobody asks; how long who asks again waits
    overflow   control replicas come, take what would have to wait, and go           (with --chat)
    apart      the policy in a control replica alone, conversations beside it        (with --chat)

The server is `blm serve` with replicas that hold the policy alone (`--chat` for whole ones): what is shown here, the
front door, Ray Serve and the web application do, whatever computes behind them. Robots run in this process.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from blm.model.errors import UserError
from blm.pipelines.benchmarks.serve_chaos_load import (
    Load,
    gap_s,
    rate_per_s,
    requests_at_rate,
    robots_at_work,
    steadiness,
)
from blm.pipelines.benchmarks.serve_chaos_pools import from_zero, overflow, policy_apart
from blm.pipelines.benchmarks.serve_chaos_server import CONFIG, bad, processes, replicas, say, told, wait_for
from blm.pipelines.benchmarks.serve_processes import Served, memory_of, started_blm

MANY, FEW = 8, 1
"""Robots that are too many for one replica, and few enough."""
OVERLOAD = 2.0
THREADS = 96


def bench_serve_chaos(model: Path | None, overload_seconds: float, chat: bool = False) -> dict[str, Any]:
    """All of them; the first four on one server.

    model: a checkpoint folder; None: one with random weights is made. chat: whole replicas, with vLLM. UserError if
    the server does not start.
    """
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        folder = model or _make_checkpoint(scratch)
        config = {**CONFIG, "chat": {"enabled": chat}}
        with started_blm(folder, config, scratch, "chaos") as server:
            say(f"server ready after {server.start_s:.0f} s")
            result: dict[str, Any] = {"start_s": round(server.start_s, 1), "chat": chat}
            result["scale"] = scale(server)
            result["upgrade"] = upgrade(server, folder, scratch)
            result["overload"] = overload(server, overload_seconds)
            result["kill"] = kill(server)
        result["zero"] = from_zero(folder, scratch)
        if chat:
            result["overflow"] = overflow(folder, scratch)
            result["apart"] = policy_apart(folder, scratch)
    return result


def scale(server: Served) -> dict[str, Any]:
    """1 -> 2 -> 1 replicas under load; how long each change took, and what failed meanwhile."""
    with robots_at_work(server.url, http=MANY) as load:
        up_s = wait_for(lambda: replicas(server) == 2, "a second replica")
        time.sleep(3)
    busy = load.since()
    with robots_at_work(server.url, http=FEW) as load:
        down_s = wait_for(lambda: replicas(server) == 1, "the second replica to go")
    quiet = load.since()
    return told("scale", {"up_s": up_s, "down_s": down_s, "failed": bad(busy) + bad(quiet), "busy": busy})


def upgrade(server: Served, folder: Path, scratch: Path) -> dict[str, Any]:
    """Another folder of the same model, under load from both protocols."""
    new = Path(shutil.copytree(folder, scratch / "upgraded", copy_function=os.link, dirs_exist_ok=True))
    port = server.url.rpartition(":")[2]
    command = [sys.executable, "-m", "blm.pipelines.cli", "serve", "upgrade", "--model", str(new), "--port", port]
    before = {process.pid for process in processes(server, "model")}
    with robots_at_work(server.url, http=2, blm=2) as load:
        time.sleep(2)
        began_s = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise UserError(f"the upgrade did not work: {done.stderr.strip()[-300:]}")
        took_s = round(time.perf_counter() - began_s, 1)
        gone_s = wait_for(lambda: not before & {process.pid for process in processes(server, "model")}, "the old to go")
        time.sleep(2)
    found = load.since()
    return told("upgrade", {"took_s": took_s, "old_gone_s": gone_s, "failed": bad(found), "robots": found})


def overload(server: Served, seconds: float) -> dict[str, Any]:
    """Twice the rate that it manages, for so long; memory of all processes meanwhile."""
    with robots_at_work(server.url, http=MANY) as load:
        wait_for(lambda: replicas(server) == 2, "all replicas")
        began_s = time.perf_counter()
        time.sleep(max(seconds / 6, 3.0))
        capacity = rate_per_s(load, began_s)
    memory: list[float] = []
    with requests_at_rate(server.url, OVERLOAD * capacity, threads=THREADS) as load:
        time.sleep(seconds / 6)  # buffers grow to what the load needs; from then on memory is to stay where it is
        began_s = time.perf_counter()
        while time.perf_counter() < began_s + seconds:
            memory.append(memory_of(server.process.pid).total_mb)
            time.sleep(min(seconds / 6, 5.0))
        found = load.since(began_s)
        offered = (found["answered"] + found["refused"] + found["failed"]) / (time.perf_counter() - began_s)
    return told(
        "overload",
        {
            "capacity_per_s": round(capacity, 1),
            "offered_per_s": round(offered, 1),
            "failed": found["failed"],
            "requests": found,
            "memory_mb": [round(one) for one in memory],
            "memory_growth": steadiness(memory),
        },
    )


def kill(server: Served) -> dict[str, Any]:
    """SIGKILL of one of two replicas, then of the only one: what failed, how long nobody was answered."""
    return {"one_of_two": kill_one(server), "the_only_one": kill_only(server)}


def kill_one(server: Served) -> dict[str, Any]:
    """SIGKILL of one of two replicas under load."""
    with robots_at_work(server.url, http=MANY) as load:
        wait_for(lambda: replicas(server) == 2, "two replicas")
        return told("kill of one of two", _killed(server, load, wanted=2))


def kill_only(server: Served) -> dict[str, Any]:
    """SIGKILL of the only replica while a robot is at work."""
    with robots_at_work(server.url, http=FEW) as load:
        wait_for(lambda: replicas(server) == 1, "the second replica to go")
        return told("kill of the only one", _killed(server, load, wanted=1))


def _killed(server: Served, load: Load, *, wanted: int) -> dict[str, Any]:
    victim = processes(server, "model")[0]
    began_s = time.perf_counter()
    victim.send_signal(signal.SIGKILL)
    back_s = wait_for(
        lambda: not psutil.pid_exists(victim.pid) and len(processes(server, "model")) >= wanted <= replicas(server),
        "the replica to come back",
    )
    time.sleep(2)
    found = load.since(began_s)
    return {"back_s": back_s, "gap_s": gap_s(load, began_s), "failed": bad(found), "requests": found}


def _make_checkpoint(scratch: Path) -> Path:
    from blm.pipelines.benchmarks.serve_checkpoint import make_checkpoint

    return make_checkpoint(scratch, preset="tiny", device="cpu")
