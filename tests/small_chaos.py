"""A pipeline of two small stages to be broken, and a trial of it. As a program of its own, since a cluster of several
raylets is one:

    python small_chaos.py trial FOLDER KILLS SEED REFERENCE     # prints what it does, and in the end the result as JSON
    python small_chaos.py run ROOT ADDRESS                      # the driver that the trial starts

`pieces` has files written by workers of Ray Data, `evaluate` is the evaluation of `small_kills`.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1
PIECES, PIECE_S = 16, 0.5
EPISODES_A_CELL, ROUND_S = 30, 0.25
STAGES = ("pieces", "evaluate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Nothing:
    """A stage without options."""


class Piece:
    """Writes a file, slowly."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        from blm.pipelines.workspace import write_text

        time.sleep(PIECE_S)
        write_text(Path(item["part"]), f"piece {item['number']}\n" * 100)
        return {"number": item["number"]}


def pieces(config: Nothing, context: Any) -> dict[str, Any]:
    """The pieces that are not there yet."""
    import ray

    from blm.pipelines.datasets.items import map_items

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    items = [{"number": i, "part": str(context.out / f"piece-{i:03d}.txt")} for i in range(PIECES)]
    missing = [item for item in items if not Path(item["part"]).exists()]
    done = sum(1 for _ in map_items(missing, Piece, arguments={}, workers=2, writes=("part",)))
    context.progress(f"{done} of {PIECES} pieces")
    return {"pieces": PIECES}


def evaluate(config: Nothing, context: Any) -> dict[str, Any]:
    """Toy episodes by actors."""
    from small_kills import evaluate_toys

    evaluate_toys(context.out, EPISODES_A_CELL, actors=2, round_s=ROUND_S)
    return {"episodes": 3 * EPISODES_A_CELL}


def run(root: str, address: str | None = None) -> Path:
    """As `blm run` does, on the cluster at an address or the one that this process has. Returns the folder."""
    from blm.actors.sim.world import WorldConfig
    from blm.pipelines.run import RunOptions
    from blm.pipelines.run import run as run_stages
    from blm.pipelines.stages import Stage
    from blm.pipelines.workspace import ResourceConfig

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        name: str = "toys"
        seed: int = 0
        world: WorldConfig = field(default_factory=WorldConfig)
        resources: ResourceConfig = field(default_factory=ResourceConfig)
        pieces: Nothing = field(default_factory=Nothing)
        evaluate: Nothing = field(default_factory=Nothing)

    stages = [
        Stage(name="pieces", module="small_chaos"),
        Stage(name="evaluate", module="small_chaos", inputs=("pieces",)),
    ]
    run_stages(Config(), RunOptions(root=Path(root), address=address), stages)
    return Path(root) / "toys"


def trial(folder: Path, kills: int, seed: int, reference: Path) -> None:
    """The disturbed run, and the result."""
    from blm.pipelines.chaos.results import text
    from blm.pipelines.chaos.trial import Trial, run_trial

    def command(root: str, address: str) -> list[str]:
        return [sys.executable, __file__, "run", root, address]

    result = run_trial(
        Trial(
            folder=folder,
            root=str(folder),
            name="toys",
            stages=STAGES,
            command=command,
            kills=kills,
            seed=seed,
            every_s=1.0,
            reference=reference,
            environment={"MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI", "")},
        ),
        lambda text: print(f"[chaos] {text}", flush=True),
    )
    print(text(result))
    print(json.dumps(result.to_json()))


if __name__ == "__main__":
    if sys.argv[1] == "trial":
        trial(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    else:
        run(sys.argv[2], sys.argv[3])
