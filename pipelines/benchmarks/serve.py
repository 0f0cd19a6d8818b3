"""`blm bench serve`: what it costs to be served, by real clients over real connections, in processes of their own.

- chat: answers of `blm serve` beside bare `vllm serve` of the same folder with the same engine options, both up at once
  and asked by turns
- actions: latency of 1, 2, 4 and 8 robots that never pause, by its parts; robots of all kinds share batches
- together: a robot's latency while eight people talk, beside while nobody does
- memory: of the model that talks and acts, beside one that only talks, and beside two deployments that share nothing

`--url` measures a server that runs already (its key in BLM_API_KEY): conversation alone, actions, together. Without it
servers are started, each with as many threads as OMP_NUM_THREADS says (1 if it does not, which is what Ray gives a
replica). On a GPU both models of `chat` share it, 40 % of its memory each. Without `--model` a checkpoint of random
weights is made in the size of `--preset`, `paper` being a 7B.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.benchmarks.serve_actions import CLIENTS, measure_actions, measure_together
from blm.pipelines.benchmarks.serve_chat import BARE, OURS, STREAMS, TOKENS, measure_chat
from blm.pipelines.benchmarks.serve_clients import Clients, clients_at_work
from blm.pipelines.benchmarks.serve_processes import Memory, Served, memory_of, started_blm, started_vllm
from blm.pipelines.memory import machine
from blm.pipelines.schema import build
from blm.serve.config import ServeConfig

PARTS = ("chat", "actions", "together", "memory")
GOALS: dict[str, tuple[str, str, float]] = {
    "chat": ("ttft_ratio", "at most", 1.05),
    "chat, tokens": ("tokens_ratio", "at most", 1.05),
    "chat, tokens of 8": ("tokens_ratio_8", "at most", 1.05),
    "actions": ("rate_8_to_1", "at least", 4.0),
    "actions, p95": ("p95_8_to_1", "at most", 2.0),
    "together": ("p95_ratio", "at most", 1.25),
    "memory": ("ratio", "at most", 1.1),
}
"""Part, with a word on which of its figures -> that figure and its bound."""
GOAL_P50_MS = 35.0
"""On a GPU."""
NO_LIMITS = {"key_requests": 10**5, "key_connections": 10**5, "max_requests": 10**5, "max_connections": 10**5}
PICTURE_PX = 224
"""Of pictures that are talked about where no policy says how large it wants them."""
APART = {"actions": {"apart": True}, "control": {"min": 1, "max": 1}}
CHAT_ALONE = {"actions": {"enabled": False}}


def bench_serve(
    model: Path | None, url: str | None, preset: str, device: str, parts: str, seconds: float, rounds: int
) -> dict[str, Any]:
    """Runs it; returns the object that is printed last. parts: comma-separated, empty for all. UserError for what
    cannot be measured."""
    wanted = chosen(parts, url)
    if seconds <= 0 or rounds < 1:
        raise UserError("give --seconds above 0 and 1 or more --rounds")
    with tempfile.TemporaryDirectory(prefix="blm-bench-serve-") as scratch, clients_at_work() as clients:
        if url is not None:
            results = _of_running(url.rstrip("/"), clients, wanted, seconds, rounds)
        else:
            if model is None:
                from blm.pipelines.benchmarks.serve_checkpoint import make_checkpoint

                model = make_checkpoint(Path(scratch), preset, device)
            results = _Started(model, device, Path(scratch), clients).measure(wanted, seconds, rounds)
    return {
        "bench": "serve",
        "method": f"{rounds} rounds by turns; {seconds:g} s of {', '.join(map(str, CLIENTS))} robots each; answers of"
        f" {TOKENS} tokens about a new picture, {STREAMS} at a time; latencies over all answers, other figures medians"
        " of the rounds",
        "machine": machine(),
        "goals": goals(results, device),
        **results,
    }


def chosen(parts: str, url: str | None) -> list[str]:
    """The parts that are asked for, in order. UserError for others, and for what needs servers of our own."""
    asked = [part.strip() for part in parts.split(",") if part.strip()] or [
        part for part in PARTS if url is None or part != "memory"
    ]
    if unknown := [part for part in asked if part not in PARTS]:
        raise UserError(f"--parts: {unknown[0]!r} is none of {', '.join(PARTS)}")
    if url is not None and "memory" in asked:
        raise UserError("--parts memory starts servers of its own; leave out --url")
    return [part for part in PARTS if part in asked]


def goals(results: Mapping[str, Any], device: str) -> dict[str, dict[str, Any]]:
    """What was hoped for, and what was found."""
    bounds = dict(GOALS)
    if device == "cuda":
        bounds["actions, p50"] = ("p50_ms", "at most", GOAL_P50_MS)
    found: dict[str, dict[str, Any]] = {}
    for name, (figure, direction, bound) in bounds.items():
        value = results.get(name.partition(",")[0], {}).get(figure)
        if value is not None:
            met = value <= bound if direction == "at most" else value >= bound
            found[name] = {"figure": figure, "value": value, "goal": f"{direction} {bound:g}", "met": met}
            print(f"{name:<20}{figure:<16}{value:>10}   goal: {direction} {bound:g}{'' if met else '   MISSED'}")
    return found


def _of_running(url: str, clients: Clients, parts: list[str], seconds: float, rounds: int) -> dict[str, Any]:
    """Figures of a server that runs already."""
    results: dict[str, Any] = {}
    about = clients.describe(url) if {"actions", "together"} & set(parts) else {}
    image_px = about.get("image_px") or PICTURE_PX
    if "actions" in parts:
        results["actions"] = measure_actions(url, clients, seconds, rounds)
    if "together" in parts:
        results["together"] = measure_together(url, clients, seconds, rounds, image_px)
    if "chat" in parts:
        results["chat"] = measure_chat({OURS: url}, clients, rounds, image_px)
    return {"policy": about, **results}


class _Started:
    """Figures of servers that are started for it."""

    def __init__(self, model: Path, device: str, scratch: Path, clients: Clients) -> None:
        self._model, self._scratch, self._clients = model.expanduser().resolve(), scratch, clients
        share = {"gpu_memory_share": 0.4} if device == "cuda" else {}
        self._config: dict[str, Any] = {
            "device": device,
            "chat": share,
            "guard": NO_LIMITS,
            "playground": {"enabled": False},  # its simulator is no part of the model
        }
        self._device = device
        self._environment = {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "RAY_worker_niceness": "0",  # else ours would yield to the clients, and the other side would not
        }

    def measure(self, parts: list[str], seconds: float, rounds: int) -> dict[str, Any]:
        """The parts that are wanted."""
        memory: dict[str, Memory] = {}
        with self._ours("unified", {}) as served:
            if "memory" in parts:
                memory["unified"] = self._memory(served, acts=True)
            alone = [part for part in parts if part in ("actions", "together")]
            results = _of_running(served.url, self._clients, alone, seconds, rounds)
            results["start_s"] = round(served.start_s, 1)
            if "chat" in parts:
                with self._bare() as bare:
                    image_px = self._clients.describe(served.url)["image_px"]
                    urls = {OURS: served.url, BARE: bare.url}
                    results["chat"] = measure_chat(urls, self._clients, rounds, image_px)
        if "memory" in parts:
            for name, config, acts in (("chat alone", CHAT_ALONE, False), ("two deployments", APART, True)):
                with self._ours(name.replace(" ", "-"), config) as served:
                    memory[name] = self._memory(served, acts=acts)
            results["memory"] = compared(memory)
        return results

    @contextmanager
    def _ours(self, name: str, changes: Mapping[str, Any]) -> Iterator[Served]:
        print(f"starting blm serve, {name}", flush=True)
        with started_blm(self._model, {**self._config, **changes}, self._scratch, name, self._environment) as served:
            yield served

    @contextmanager
    def _bare(self) -> Iterator[Served]:
        from blm.serve.engine.options import engine_environment, engine_options

        chat = build(ServeConfig, self._config, where="the benchmark's configuration").chat
        environment = {**engine_environment(self._device), **self._environment}
        print("starting vllm serve beside it", flush=True)
        options = engine_options(self._model, chat, self._device)
        with started_vllm(self._model, options, self._scratch, environment) as served:
            yield served

    def _memory(self, served: Served, *, acts: bool) -> Memory:
        """After as much work as makes it grow: caches, batches of every size, threads."""
        if acts:
            for count in CLIENTS:
                self._clients.act(served.url, clients=count, seconds=1.0)
        measure = {"streams": STREAMS, "conversations": 2 * STREAMS, "tokens": TOKENS, "image_px": PICTURE_PX}
        self._clients.talk(served.url, **measure, first=0)
        return memory_of(served.process.pid)


def compared(memory: Mapping[str, Memory]) -> dict[str, Any]:
    """Memory by configuration in MB, and how many times as much as conversation alone: the stricter ratio leaves out
    Ray's own processes, which all have alike."""
    alone, unified = memory["chat alone"], memory["unified"]
    print(f"{'memory, MB':<20}{'all':>10}{'model':>10}")
    for name, one in memory.items():
        print(f"{name:<20}{one.total_mb:>10.0f}{one.model_mb:>10.0f}   {one.processes}", flush=True)
    return {
        "ratio": round(unified.model_mb / alone.model_mb, 3),
        "ratio_with_ray": round(unified.total_mb / alone.total_mb, 3),
        "ratio_two_deployments": round(memory["two deployments"].model_mb / alone.model_mb, 3),
        "total_mb": {name: one.total_mb for name, one in memory.items()},
        "model_mb": {name: one.model_mb for name, one in memory.items()},
        "processes": {name: dict(one.processes) for name, one in memory.items()},
    }
