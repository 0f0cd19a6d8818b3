"""Folders as the stages leave them, for the tests of the report:

real files in the agreed formats, with invented numbers.
"""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from blm.pipelines.fingerprint import versions
from blm.pipelines.memory import machine

STAGES = ("collect", "render", "corpora", "stage1", "intents", "stage2", "baseline", "evaluate")

COLLECTED = {
    "kept": 150,
    "tried": 162,
    "first_plan_rate": 0.9,
    "success_rate": 0.926,
    "median_steps": 31.0,
    "failures": {"no_path": 9, "task_not_done": 3},
}


def make_inputs(root: Path, *, cells: tuple[str, ...] = ("panda/PushCube", "panda/PickCube")) -> dict[str, Path]:
    """Finished folders of all stages under `root`, by stage name."""
    folders = {stage: root / f"{stage}-0123abcd" for stage in STAGES}
    for stage, folder in folders.items():
        folder.mkdir(parents=True)
        _write(folder / "manifest.json", manifest(stage))
    _write(folders["stage1"] / "metrics.json", {"curve": _curve("loss", 1500, 6.0)})
    _write(
        folders["stage2"] / "metrics.json",
        {"curve": _curve("flow", 3000, 1.2), "validation": [{"step": 3000, "val_flow": 0.07}]},
    )
    _write(folders["intents"] / "probe.json", {"layer": 3, "cells": [_probe(name) for name in cells]})
    _write(
        folders["baseline"] / "metrics.json",
        {"curve": _curve("loss", 2000, 1.1), "validation": [{"step": 2000, "val_loss": 0.09, "val_action": 0.2}]},
    )
    test = {"policy": "diffusion_policy", "pairs": 100, "only_first": 30, "only_second": 2, "p": 1.2e-7}
    compared = [test | {"cell": name} for name in (*cells, "all")]
    rows = [cell for name in cells for cell in _cells(name)]
    _write(folders["evaluate"] / "summary.json", {"backend": "cpu, lite", "cells": rows, "compared": compared})
    categories = [
        {"category": c, "n": 150, "before": 0.02, "after": a, "majority": 0.3, "no_picture": 0.28}
        for c, a in (("object position", 0.81), ("goal position", 0.74), ("relation", 0.93), ("colour", 0.99))
    ]
    _write(folders["evaluate"] / "digital.json", {"categories": categories})
    for name in cells[:2]:
        for seed, outcome in ((1_000_001, "success"), (1_000_002, "success"), (1_000_007, "failure")):
            write_video(folders["evaluate"] / "videos" / f"{name.replace('/', '-')}-seed{seed}-{outcome}.mp4", seed)
    return folders


def manifest(stage: str) -> dict[str, Any]:
    """A manifest with every field the runner writes."""
    return {
        "format": 1, "stage": stage, "version": 1, "fingerprint": "0123abcd" * 8, "config": {"option": 1}, "seed": 0,
        "world": {"cells": ["panda/PushCube"], "cameras": ["front"], "image_px": 112, "geometry": "lite"},
        "resources": {}, "inputs": {},
        "summary": {"cells": {"panda/PushCube": COLLECTED}, "episodes": 400, "episodes_per_core_minute": 260.0},
        "begun": "2026-01-01 10:00:00", "finished": "2026-01-01 10:02:05", "attempts": 1, "wall_s": 125.3,
        "peak_memory_gb": 3.2, "machine": machine(), "versions": versions(), "code": "00", "other_code": [],
        "content": "00", "files": [{"path": "a", "bytes": 1_234_567, "sha256": "00"}],
    }  # fmt: skip


def _probe(cell: str) -> dict[str, Any]:
    return {
        "cell": cell,
        "object_cm": 0.31,
        "goal_cm": 0.92,
        "object_spread_cm": 5.4,
        "goal_spread_cm": 6.0,
        "frames": 600,
    }


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _curve(column: str, steps: int, start: float) -> list[dict[str, float]]:
    noise = np.random.default_rng(0)
    return [
        {
            "step": step,
            "loss": start * math.exp(-4 * step / steps) + 0.02 + 0.1 * float(noise.random()) / (1 + step / 50),
        }
        for step in range(0, steps, 10)
    ]


def _cells(name: str) -> list[dict[str, Any]]:
    common = {"cell": name, "episodes": 50, "median_steps": 23, "median_time_s": 1.15, "median_jerk_rad_s3": 1234.0}
    return [
        common
        | {
            "policy": "blm",
            "successes": 46,
            "rate": 0.92,
            "low": 0.81,
            "high": 0.97,
            "failures": {"dropped": 3, "bad_action": 1},
        },
        common
        | {
            "policy": "diffusion_policy",
            "successes": 32,
            "rate": 0.64,
            "low": 0.5,
            "high": 0.76,
            "failures": {"time_out": 18},
        },
        common
        | {"policy": "random", "successes": 1, "rate": 0.02, "low": 0.0, "high": 0.1, "failures": {"time_out": 49}},
    ]


def compared(better: str | None = "runs/a") -> dict[str, Any]:
    """A `compare.json` of two policies in two cells."""
    first, second = (
        {"name": f"runs/{name}", "source": name, "episodes": 40, "successes": successes, "rate": successes / 40}
        | {"low": 0.5, "high": 0.9, "errors": 1}
        for name, successes in (("a", 36), ("b", 20))
    )
    cell = {"rate_first": 0.9, "rate_second": 0.5, "pairs": 20, "only_first": 9, "only_second": 1}
    return {
        "verdict": "first" if better else "open", "better": better, "backend": "cpu, lite",
        "first": first, "second": second, "pairs": 40, "both": 18, "only_first": 18, "only_second": 2, "neither": 2,
        "difference": 0.4, "difference_low": 0.1, "difference_high": 0.6, "log_evidence": 5.5, "p": 0.0004,
        "rules": {"alpha": 0.05, "on_the_way": 0.5, "margin": 0.0}, "rounds": 20, "rounds_planned": 50,
        "end_was_spent": False, "stopped_early": True,
        "cells": [cell | {"cell": name, "p": 0.02, "p_adjusted": 0.04} for name in ("panda/A", "xarm6/A")],
        "path": [[2 * i, i, 0, 0.3 * i] for i in range(1, 19)],
    }  # fmt: skip


def curve() -> dict[str, Any]:
    """A `curve.json` of two modes under three latencies."""
    point = {"episodes": 50, "low": 0.6, "high": 0.8, "errors": 0, "failures": {}, "against_plain": None}
    points = [
        point
        | {"mode": mode, "latency_steps": steps, "latency_ms": 50 * steps, "rate": 0.7, "median_jerk_rad_s3": 900.0}
        for steps in (0, 2, 4)
        for mode in ("plain", "real_time")
    ]
    return {"policy": "blm & co", "backend": "cpu, lite", "cells": ["panda/PushCube"], "seeds": 50, "points": points}


def write_video(path: Path, seed: int) -> None:
    """A short clip of a square that moves, 64 by 64 pixels."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(10):
            frame = np.full((64, 64, 3), 40 + seed % 50, np.uint8)
            frame[20:36, 4 * i : 4 * i + 16] = (220, 120, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
