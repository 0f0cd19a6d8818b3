"""`blm bench feed`: training windows a second from a robot dataset, beside lerobot's dataset with a DataLoader.

A window is the state, a chunk of 16 actions and the present pictures of two cameras. Both sides give shuffled batches
of 64 with pictures as floats, from the same dataset; before anything is timed, the same windows of both are compared.
They take turns round by round, with as many processes each beside the one that leads. Ours decodes the two pictures of
a window; lerobot, asked for actions at 16 time steps, reads all 16 rows whole and decodes 34. What it does without a
chunk, a picture of each camera a window, is told beside it. Opening the dataset is not timed; starting workers is.
"""

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from blm.cluster import ray_runtime
from blm.model.embodiments import CONTROL_HZ
from blm.model.errors import UserError
from blm.model.layout import layout_of
from blm.pipelines.benchmarks.workers import Worker
from blm.pipelines.datasets.lerobot_schema import Feature, image_feature
from blm.pipelines.datasets.lerobot_stats import histogram_of
from blm.pipelines.datasets.lerobot_writer import EpisodeFrames, write_lerobot
from blm.pipelines.windows.index import WindowIndex
from blm.pipelines.windows.picture_feed import PictureFeed
from blm.pipelines.windows.statistics import statistics_of
from blm.pipelines.windows.store import open_windows, prepare_windows

ROBOT, CAMERAS, SIDE_PX = "panda", ("front", "side"), 112
CHUNK, BATCH = 16, 64
FRAMES = 100
"""Of an episode."""
GOAL = 10.0
COMPARED = 5
"""Windows of both sides that are compared."""


def bench_feed(windows: int, episodes: int, rounds: int, processes: int, peer_python: Path) -> dict[str, Any]:
    """Runs it; returns the object that is printed last. UserError without the peer's environment."""
    if not peer_python.exists():
        raise UserError(f"{peer_python} is missing; make lerobot's environment: make lerobot-check")
    if windows < 2 * BATCH or min(episodes, rounds, processes) < 1:
        raise UserError(f"give {2 * BATCH} or more windows, and 1 or more --episodes, --rounds and --processes")
    with tempfile.TemporaryDirectory(prefix="blm-bench-feed-") as scratch:
        folder = Path(scratch) / ROBOT
        write_demonstrations(folder, episodes)
        ray_runtime.set_environment({"RAY_worker_niceness": "0"})  # else they yield to all else here; the peer's do not
        command = [str(peer_python), str(Path(__file__).with_name("lerobot_peer.py"))]
        with (
            ray_runtime.connected(num_cpus=processes, object_store_gb=0.5),
            closing(Worker(command, core=None)) as peer,
        ):
            ours = _Ours(folder, Path(scratch) / "windows", processes)
            request = {"root": str(folder), "chunk": CHUNK, "batch": BATCH, "processes": processes}
            _compare(ours, peer, request, episodes * FRAMES)
            rates = _rates(ours, lambda n, chunk: peer.ask(request | {"windows": n, "window": chunk}), windows, rounds)
    ratios = [a / b for a, b in zip(rates["ours"], rates["lerobot"], strict=True)]
    plain = [a / b for a, b in zip(rates["ours"], rates["lerobot, no chunk"], strict=True)]
    return {
        "bench": "feed",
        "method": f"{windows} windows a turn of ours, {rounds} alternating rounds, {processes} processes a side and one"
        f" that leads, {episodes} episodes of {FRAMES} frames, {len(CAMERAS)} cameras of {SIDE_PX} px, PNG; rates are"
        " medians; ratio is that of each round, median",
        "ratio": round(statistics.median(ratios), 2),
        "ratio_without_chunk": round(statistics.median(plain), 2),
        "under_goal": statistics.median(ratios) < GOAL,
        "windows_per_s": {side: round(statistics.median(found), 1) for side, found in rates.items()},
        "rounds": {side: [round(rate, 1) for rate in found] for side, found in rates.items()},
    }


def write_demonstrations(root: Path, episodes: int, *, frames: int = FRAMES) -> None:
    """A dataset of random movements whose pictures are as hard to decode as rendered ones: flat areas and soft
    shades."""
    layout, rng = layout_of(ROBOT), np.random.default_rng(0)
    picture = image_feature(SIDE_PX)
    features = {f"observation.images.{camera}": picture for camera in CAMERAS} | {
        "observation.state": Feature(dtype="float32", shape=(layout.state_dim,), names=layout.state_names),
        "action": Feature(dtype="float32", shape=(layout.action_dim,), names=layout.action_names),
    }

    def made() -> Any:
        for _ in range(episodes):
            state = np.cumsum(rng.normal(0, 0.01, (frames, layout.state_dim)), axis=0).astype(np.float32)
            drawn = {name: [_picture(rng) for _ in range(frames)] for name in features if "images" in name}
            yield EpisodeFrames(
                task="push the cube to the target",
                values={"observation.state": state, "action": state + np.float32(0.01)},
                pictures={name: [_png(one) for one in found] for name, found in drawn.items()},
                histograms={name: histogram_of(found) for name, found in drawn.items()},
            )

    write_lerobot(root, robot_type=ROBOT, fps=CONTROL_HZ, features=features, episodes=made())


def _picture(rng: np.random.Generator) -> np.ndarray:
    shade = np.linspace(150, 200, SIDE_PX)[:, None, None] + np.linspace(0, 20, SIDE_PX)[None, :, None]
    picture = np.broadcast_to(shade, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8).copy()
    for _ in range(6):
        top, left = rng.integers(0, SIDE_PX - 24, 2)
        height, width = rng.integers(6, 24, 2)
        picture[top : top + height, left : left + width] = rng.integers(0, 255, 3)
    return picture


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


class _Ours:
    """Our side: the windows on disk, and feeds on them."""

    def __init__(self, folder: Path, out: Path, processes: int) -> None:
        datasets = {ROBOT: folder}
        prepare_windows(datasets, out, chunk=CHUNK, workers=processes)
        self.windows = open_windows(out, datasets)
        index = WindowIndex(self.windows)
        self.feed = PictureFeed(index, statistics_of(self.windows), datasets, CAMERAS, tasks=processes)
        self.turn = 0

    def rate(self, windows: int) -> float:
        """Windows a second, of so many."""
        self.turn += 1
        count, started_s = 0, time.perf_counter()
        share = self.feed.index.share(batch=BATCH, seed=self.turn)
        for batch in self.feed.steps(share, 0, -(-windows // BATCH)):
            pictures = torch.from_numpy(batch.pictures).movedim(-1, -3).float().div_(255)
            count += len(pictures)
        return count / (time.perf_counter() - started_s)


def _compare(ours: _Ours, peer: Worker, request: dict[str, Any], frames: int) -> None:
    """RuntimeError unless both sides have the same windows."""
    chosen = np.linspace(0, frames - 1, COMPARED).astype(np.int64)
    theirs = peer.ask(request | {"compare": chosen.tolist()})["windows"]
    robot = ours.windows[0]
    batch = ours.feed.batch(chosen)
    origin = np.append(np.asarray(robot.state[chosen])[:, :-1], np.zeros((len(chosen), 1)), axis=1)[:, None]
    actions = np.asarray(robot.chunk[chosen]) + origin
    for row, other in enumerate(theirs):
        same = (
            np.allclose(robot.state[chosen[row]], other["state"], atol=1e-5)
            and np.allclose(actions[row], other["actions"], atol=1e-5)
            and robot.is_pad[chosen[row]].tolist() == other["is_pad"]
            and np.allclose(batch.pictures[row].mean(axis=(1, 2, 3)) / 255, other["pictures"], atol=1e-4)
        )
        if not same:
            raise RuntimeError(f"window {chosen[row]} is not the same on both sides")


def _rates(
    ours: _Ours, ask: Callable[[int, bool], dict[str, Any]], windows: int, rounds: int
) -> dict[str, list[float]]:
    """Windows a second of every round, by side."""
    sides: dict[str, Callable[[], float]] = {
        "ours": lambda: ours.rate(windows),
        "lerobot": lambda: ask(max(2 * BATCH, windows // 8), True)["rate"],  # it is slower by more than that
        "lerobot, no chunk": lambda: ask(windows // 2, False)["rate"],
    }
    rates: dict[str, list[float]] = {side: [] for side in sides}
    print(f"{'windows/s':<10}" + "".join(f"{side:>20}" for side in sides), flush=True)
    for turn in range(-1, rounds):  # the first turn warms both sides up and is not counted
        for side in sorted(sides, reverse=turn % 2 == 1):
            rate = sides[side]()
            if turn >= 0:
                rates[side].append(rate)
        if turn >= 0:
            print(f"{turn + 1:<10}" + "".join(f"{rates[side][-1]:>20.1f}" for side in sides), flush=True)
    return rates
