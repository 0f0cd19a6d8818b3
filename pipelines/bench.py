"""`blm bench`: speed, shown by running it. The last line of every benchmark is one JSON object.

blm bench collect     demonstrations a core-minute, beside ManiSkill's own motion-planning examples
blm bench render      pictures a second: light and official geometry, strides, one process and two
blm bench stage1      tokens a second in training, packed and padded; the share of the hardware's arithmetic used
blm bench stage2      samples a second in training the policy: cached intents, the model in the loop, random tensors
blm bench feed        training windows a second, beside lerobot's dataset with a DataLoader
blm bench ingest      records a second brought in, beside Hugging Face datasets with a DataLoader; memory of a process
"""

import argparse
import json
from pathlib import Path

from blm.cluster.ray_runtime import set_environment

WHAT = ("collect", "render", "stage1", "stage2", "feed", "ingest")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, and how much of it."""
    parser.add_argument("what", choices=WHAT, help="what to measure")
    parser.add_argument(
        "--episodes", type=int, default=60, metavar="N", help="demonstrations a task; feed: in all (default: 60)"
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=6,
        metavar="N",
        help="collect: demonstrations with pictures a task (default: 6; theirs take seconds each)",
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns a side (default: 3)")
    parser.add_argument(
        "--peer-python",
        type=Path,
        metavar="FILE",
        help="collect, ingest, feed: Python of the peer's environment (`make bench-peers`; feed: lerobot_env.sh)",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="stage1, stage2: where the model trains (default: cpu)"
    )
    parser.add_argument(
        "--preset", default="tiny", metavar="NAME", help="stage2: whose sizes; `paper` for a GPU (default: tiny)"
    )
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="stage2: steps a side (default: 200)")
    parser.add_argument(
        "--records", type=int, default=12000, metavar="N", help="ingest: conversations a turn (default: 12000)"
    )
    parser.add_argument(
        "--gigabytes",
        type=float,
        default=0.2,
        metavar="N",
        help="ingest: size of the corpus on which memory is measured (default: 0.2)",
    )
    parser.add_argument(
        "--processes", type=int, default=2, metavar="N", help="ingest, feed: processes a side (default: 2)"
    )
    parser.add_argument("--windows", type=int, default=4096, metavar="N", help="feed: windows a turn (default: 4096)")
    parser.epilog = __doc__


def main(name: str, arguments: argparse.Namespace) -> int:
    """Measure, print tables, and one JSON object as the last line."""
    set_environment()
    if arguments.what == "collect":
        from blm.pipelines.benchmarks.collect import bench_collect

        peer_python = arguments.peer_python or Path(".venv-maniskill/bin/python")
        result = bench_collect(arguments.episodes, arguments.rounds, arguments.pictures, peer_python)
    elif arguments.what == "stage1":
        from blm.pipelines.benchmarks.stage1 import bench_stage1

        result = bench_stage1(arguments.device, arguments.rounds)
    elif arguments.what == "stage2":
        from blm.pipelines.benchmarks.stage2 import bench_stage2

        result = bench_stage2(arguments.preset, arguments.device, arguments.steps)
    elif arguments.what == "feed":
        from blm.pipelines.benchmarks.feed import bench_feed

        peer_python = arguments.peer_python or Path(".venv-lerobot/bin/python")
        result = bench_feed(arguments.windows, arguments.episodes, arguments.rounds, arguments.processes, peer_python)
    elif arguments.what == "ingest":
        from blm.pipelines.benchmarks.ingest import bench_ingest

        peer_python = arguments.peer_python or Path(".venv-datasets/bin/python")
        result = bench_ingest(
            arguments.records, arguments.rounds, arguments.gigabytes, arguments.processes, peer_python
        )
    else:
        from blm.pipelines.benchmarks.render import bench_render

        result = bench_render(arguments.episodes, arguments.rounds)
    print(json.dumps(result))
    return 0
