"""`blm bench ingest`: records a second brought in, beside Hugging Face `datasets` with a DataLoader; and memory.

Rate: both sides read one JSON file of conversations in LLaVA's layout with its pictures, check them, and write Parquet
in our schema. They take turns round by round, with as many processes each beside the one that leads them. Starting
Python and Ray is not timed; starting workers for the job is. Ours finds duplicates besides. Theirs decodes pictures in
full, as is usual, and once more at a reduced size, as ours does to notice damage.

Memory: a corpus of so many gigabytes, nearly all of it pictures, is ingested once while the memory of the leading
process and of every worker is read five times a second: resident, and private (what no other process shares).
"""

import io
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from blm.cluster import ray_runtime
from blm.model.errors import UserError
from blm.pipelines.benchmarks.workers import Worker
from blm.pipelines.ingest.flow import forget_parts, ingest
from blm.pipelines.ingest.options import IngestConfig, SourceConfig

GOAL_GB = 2.0


def bench_ingest(records: int, rounds: int, gigabytes: float, processes: int, peer_python: Path) -> dict[str, Any]:
    """Runs it; returns the object that is printed last. UserError without the peer's environment."""
    if not peer_python.exists():
        raise UserError(f"{peer_python} is missing; make the environment of Hugging Face datasets: make bench-peers")
    if min(records, rounds, processes) < 1 or gigabytes < 0:
        raise UserError("give 1 or more --records, --rounds and --processes, and 0 or more --gigabytes")
    with tempfile.TemporaryDirectory(prefix="blm-bench-ingest-") as scratch:
        folder = Path(scratch)
        ray_runtime.set_environment({"RAY_worker_niceness": "0"})  # else they yield to all else here; the peer's do not
        with ray_runtime.connected(num_cpus=processes, object_store_gb=0.3):
            rates = _rates(folder / "rate", records, rounds, processes, peer_python)
            memory = _memory(folder / "memory", gigabytes, processes) if gigabytes else {}
    ratios = {
        side: round(statistics.median(a / b for a, b in zip(rates["ours"], rates[side], strict=True)), 2)
        for side in ("theirs", "theirs, reduced")
    }
    return {
        "bench": "ingest",
        "method": f"{records} records, {rounds} alternating rounds, {processes} processes a side and one that leads;"
        " rates are medians; ratio is that of each round, median",
        "ratio": ratios["theirs"],
        "ratio_reduced": ratios["theirs, reduced"],
        "records_per_s": {side: round(statistics.median(found), 1) for side, found in rates.items()},
        "rounds": {side: [round(rate, 1) for rate in found] for side, found in rates.items()},
        "memory": memory,
    }


# -------------------------------------------------------------------------------------------------------------- rate


def _rates(folder: Path, records: int, rounds: int, processes: int, peer_python: Path) -> dict[str, list[float]]:
    """Records a second of every round, by side."""
    path = make_corpus(folder, records, picture_px=(640, 480))
    print(f"{records} records, {_size(folder) / 1e6:.0f} MB; records/s:", flush=True)
    print(f"{'round':<8}{'ours':>10}{'theirs':>10}{'reduced':>10}", flush=True)
    peer = Worker([str(peer_python), str(Path(__file__).with_name("datasets_peer.py"))], core=None)
    rates: dict[str, list[float]] = {"ours": [], "theirs": [], "theirs, reduced": []}
    try:
        for turn in range(-1, rounds):  # the first turn warms both sides up and is not counted
            for side in sorted(rates, reverse=turn % 2 == 1):
                out = folder / f"{side[:12]}-{turn}"
                if side == "ours":
                    rows, wall_s = _ours(path, out, processes)
                else:
                    out.mkdir()
                    request = {"records": str(path), "root": str(folder), "out": str(out / "rows.parquet")}
                    answer = peer.ask(request | {"processes": processes, "reduced": side != "theirs"})
                    rows, wall_s = answer["rows"], answer["wall_s"]
                if rows != records:
                    raise RuntimeError(f"{side} wrote {rows} of {records} rows")
                shutil.rmtree(out)
                if turn >= 0:
                    rates[side].append(records / wall_s)
            if turn >= 0:
                print(f"{turn + 1:<8}" + "".join(f"{found[-1]:>10.0f}" for found in rates.values()), flush=True)
    finally:
        peer.close()
    return rates


def _ours(path: Path, out: Path, processes: int) -> tuple[int, float]:
    """Rows written and seconds."""
    started_s = time.perf_counter()
    config = IngestConfig(sources=(SourceConfig(name="bench", path=path, max_pixels=2**22),), piece_mb=_piece_mb(path))
    reports = ingest(config, out, workers=processes, progress=lambda text: None)
    forget_parts(out)
    return reports["bench"]["kept"]["train"], time.perf_counter() - started_s


def _piece_mb(path: Path) -> float:
    """Small pieces for a small file: every process should have several."""
    return min(8.0, max(0.01, path.stat().st_size / 2**20 / 16))


# ------------------------------------------------------------------------------------------------------------ corpus


def make_corpus(folder: Path, records: int, *, picture_px: tuple[int, int]) -> Path:
    """`records.jsonl` with that many conversations, and a picture for each beside it."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    path = folder / "records.jsonl"
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 14, (picture_px[1], picture_px[0], 3)).astype(np.int16)
    with path.open("w") as file:
        for number in range(records):
            name = f"pictures/{number:07d}.jpg"
            (folder / name).write_bytes(_picture(rng, noise))
            words = " ".join(f"word{i}" for i in rng.integers(0, 5000, 40))
            turns = [
                {"from": "human", "value": f"<image>\nWhat is in place {number}?"},
                {"from": "gpt", "value": words},
            ]
            file.write(json.dumps({"id": str(number), "image": name, "conversations": turns}) + "\n")
    return path


def _picture(rng: np.random.Generator, noise: np.ndarray) -> bytes:
    """A picture of soft colours and grain; no two are alike."""
    height, width, _ = noise.shape
    cells = Image.fromarray(rng.integers(0, 255, (6, 8, 3)).astype(np.uint8))
    soft = np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels = np.clip(soft + np.roll(noise, int(rng.integers(0, height)), axis=0), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------------ memory


def _memory(folder: Path, gigabytes: float, processes: int) -> dict[str, Any]:
    """Peak memory of the leading process and of a worker while a corpus is ingested."""
    sample = make_corpus(folder / "sample", 2, picture_px=(1280, 960))
    n = max(1, round(gigabytes * 1e9 / (_size(sample.parent) / 2)))
    path = make_corpus(folder / "corpus", n, picture_px=(1280, 960))
    made_gb = _size(path.parent) / 1e9
    with _watched() as peaks:
        rows, wall_s = _ours(path, folder / "out", processes)
    found: dict[str, Any] = {
        "corpus_gb": round(made_gb, 3),
        "records": rows,
        "wall_s": round(wall_s, 1),
        "driver_gb": {kind: round(peak / 1e9, 3) for kind, peak in peaks.driver.items()},
        "worker_gb": {kind: round(peak / 1e9, 3) for kind, peak in peaks.worker.items()},
        "workers_seen": len(peaks.seen),
        "under_goal": max(*peaks.driver.values(), *peaks.worker.values()) < GOAL_GB * 1e9,
    }
    print(
        f"memory on {made_gb:.2f} GB: leading process {found['driver_gb']['resident']} GB resident,"
        f" {found['driver_gb']['private']} private; largest worker {found['worker_gb']['resident']},"
        f" {found['worker_gb']['private']} (goal: under {GOAL_GB:g} each)",
        flush=True,
    )
    return found


@dataclass(frozen=True, slots=True)
class Peaks:
    """Most bytes seen of any one process."""

    driver: dict[str, int] = field(default_factory=lambda: {"resident": 0, "private": 0})
    worker: dict[str, int] = field(default_factory=lambda: {"resident": 0, "private": 0})
    seen: set[int] = field(default_factory=set)
    """Process ids of workers."""


@contextmanager
def _watched() -> Iterator[Peaks]:
    """Watch this process and Ray's workers below it while the body runs."""
    peaks, stop, root = Peaks(), threading.Event(), psutil.Process()

    def look(process: psutil.Process, peak: dict[str, int]) -> None:
        memory = process.memory_full_info()
        peak["resident"] = max(peak["resident"], memory.rss)
        peak["private"] = max(peak["private"], memory.uss)

    def watch() -> None:
        while not stop.wait(0.2):
            look(root, peaks.driver)
            for process in root.children(recursive=True):
                try:
                    if process.name().startswith("ray::"):
                        look(process, peaks.worker)
                        peaks.seen.add(process.pid)
                except psutil.Error:  # ended meanwhile
                    continue

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()
