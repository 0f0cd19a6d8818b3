"""Our data engine as a worker of the benchmarks: what the stages' workers do, by request.

One JSON object a line on standard input, one on standard output; `wall_s` is the time of the work alone.

- `{"task", "seeds", "image_px", "stride"}`: demonstrations of the Panda, kept as states; with image_px also rendered
- `{"source", "geometry", "image_px", "stride"}`: the episodes of a file, rendered
"""

import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

from blm.actors.demonstrator import Demonstrator
from blm.actors.sim.demonstration import DemonstrationConfig, DemonstrationItem
from blm.actors.sim.episode import write_episodes
from blm.actors.sim.world import Cell, Geometry, WorldConfig
from blm.pipelines.benchmarks.workers import answer_requests
from blm.pipelines.render import RenderConfig
from blm.pipelines.render_frames import RenderWorker

CONFIG = DemonstrationConfig(disturbed_share=0.0)
"""As collected, but undisturbed: ManiSkill's examples have no disturbances."""


@cache
def demonstrator() -> Demonstrator:
    """Made once: building simulators is not what is measured."""
    return Demonstrator("lite", CONFIG)


@cache
def render_worker(geometry: Geometry, image_px: int, stride: int) -> RenderWorker:
    """Made once for each way to render."""
    world = WorldConfig(cameras=("front", "side"), image_px=image_px, geometry=geometry)
    return RenderWorker(RenderConfig(stride=stride), world)


def demonstrate(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Plan, execute, watch, write the states; with image_px, replay and draw them as the render stage does."""
    item = DemonstrationItem(cell=Cell(robot="panda", task=request["task"]), seeds=tuple(request["seeds"]))
    source = folder / "episodes.parquet"
    began_s = time.perf_counter()
    made = demonstrator().work(item).demonstrations
    episodes = [one.episode for one in made if one.episode is not None]
    write_episodes(source, episodes)
    if request["image_px"]:
        worker = render_worker("lite", request["image_px"], request["stride"])
        worker({"source": str(source), "part": str(folder / "part.parquet")})
    return {
        "wall_s": time.perf_counter() - began_s,
        "kept": len(episodes),
        "first_plan": sum(one.first_plan for one in made),
        "steps": [len(episode.actions) for episode in episodes],
    }


def draw(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Render a file of episodes."""
    worker = render_worker(request["geometry"], request["image_px"], request["stride"])
    began_s = time.perf_counter()
    done = worker({"source": request["source"], "part": str(folder / "part.parquet")})
    return {"wall_s": time.perf_counter() - began_s, "frames": done["frames"]}


def main() -> None:
    """Answers requests until standard input ends."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        answer_requests(lambda request: (draw if "source" in request else demonstrate)(request, Path(folder)))


if __name__ == "__main__":
    main()
