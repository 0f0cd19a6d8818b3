"""`blm bench render`: frames a second of the render stage's worker, from kept states to encoded pictures.

Panda, cameras `front` and `side`, 112 px, PNG; a frame is one moment in both cameras. Light geometry against the
maker's meshes, every step against the stride that datasets use, one process against two, each pinned to a core of its
own. Making simulators is not timed; every way is measured in alternating rounds.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from blm.actors.sim.demonstration import DemonstrationConfig, DemonstrationItem
from blm.actors.sim.world import Cell
from blm.model.errors import UserError
from blm.pipelines.benchmarks.workers import Worker, running

TASKS = ("PickCube", "PushCube")
IMAGE_PX, STRIDE = 112, 2
WAYS: dict[str, dict[str, Any]] = {
    "lite, stride 1": {"geometry": "lite", "stride": 1},
    "lite, as used": {"geometry": "lite", "stride": STRIDE},
    "official, stride 1": {"geometry": "official", "stride": 1},
    "official, as used": {"geometry": "official", "stride": STRIDE},
}


def bench_render(episodes: int, rounds: int) -> dict[str, Any]:
    """Runs it with that many episodes; returns the object that is printed last."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "blm.pipelines.benchmarks.ours"]
    names = {f"worker {index}": core for index, core in enumerate(cores[:2])}
    with tempfile.TemporaryDirectory() as folder:
        source = _episodes(episodes, Path(folder))
        with running(dict.fromkeys(names, command), names) as workers:
            several = list(workers.values())
            results = _ways(several[0], str(source), episodes, rounds)
            scaling = _scaling(several, str(source), rounds) if len(several) > 1 else None
    lite, official = (results[f"{geometry}, as used"]["frames_per_s"] for geometry in ("lite", "official"))
    used, every = (results[f"lite, {stride}"]["episodes_per_minute"] for stride in ("as used", "stride 1"))
    return {
        "bench": "render",
        "method": f"{episodes} Panda episodes ({', '.join(TASKS)}), front and side, {IMAGE_PX} px PNG, one process "
        f"pinned to a core, median of {rounds} alternating rounds; as used: stride {STRIDE}",
        "ratio": round(lite / official, 2),
        "ratio_stride": round(used / every, 2),
        "scaling_1_to_2": scaling,
        "results": results,
    }


def _episodes(count: int, folder: Path) -> Path:
    """A file of that many demonstrations."""
    from blm.actors.demonstrator import Demonstrator
    from blm.actors.sim.episode import write_episodes

    if count < len(TASKS):
        raise UserError(f"--episodes {count} is too few; give {len(TASKS)} or more")
    demonstrator = Demonstrator("lite", DemonstrationConfig())
    seeds = tuple(range(count // len(TASKS)))
    batches = [demonstrator.work(DemonstrationItem(cell=Cell(robot="panda", task=task), seeds=seeds)) for task in TASKS]
    made = [one.episode for batch in batches for one in batch.demonstrations if one.episode is not None]
    write_episodes(folder / "episodes.parquet", made)
    return folder / "episodes.parquet"


def _ways(worker: Worker, source: str, episodes: int, rounds: int) -> dict[str, dict[str, float]]:
    requests = {name: {"source": source, "image_px": IMAGE_PX, **way} for name, way in WAYS.items()}
    for request in requests.values():
        worker.ask(request)
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in requests}
    for _ in range(rounds):
        for name, request in requests.items():
            answers[name].append(worker.ask(request))
    results = {}
    print(f"{'':<20}{'frames a second':>16}{'episodes a minute':>19}")
    for name, found in answers.items():
        wall_s = statistics.median(one["wall_s"] for one in found)
        results[name] = {
            "frames_per_s": round(found[0]["frames"] / wall_s, 1),
            "episodes_per_minute": round(60 * episodes / wall_s, 1),
        }
        row = results[name]
        print(f"{name:<20}{row['frames_per_s']:>16.1f}{row['episodes_per_minute']:>19.1f}", flush=True)
    return results


def _scaling(workers: list[Worker], source: str, rounds: int) -> float:
    """Rate of two processes at once over that of one."""
    request = {"source": source, "image_px": IMAGE_PX, "geometry": "lite", "stride": STRIDE}
    for worker in workers:
        worker.ask(request)
    gains = []
    for _ in range(rounds):
        alone = workers[0].ask(request)["wall_s"]
        for worker in workers:
            worker.send(request)
        together = max(worker.receive()["wall_s"] for worker in workers)
        gains.append(len(workers) * alone / together)
    gain = round(statistics.median(gains), 2)
    print(f"two processes: {gain:.2f} times one", flush=True)
    return gain
