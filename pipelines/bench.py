"""`blm bench`: speed, shown by running it. The last line of every benchmark is one JSON object.

blm bench collect     demonstrations a core-minute, beside ManiSkill's own motion-planning examples
blm bench render      pictures a second: light and official geometry, strides, one process and two
"""

import argparse
import json
from pathlib import Path

from blm.cluster.ray_runtime import set_environment

WHAT = ("collect", "render")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, and how much of it."""
    parser.add_argument("what", choices=WHAT, help="what to measure")
    parser.add_argument("--episodes", type=int, default=60, metavar="N", help="demonstrations a task (default: 60)")
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
        default=Path(".venv-maniskill/bin/python"),
        metavar="FILE",
        help="collect: Python of the environment that `make bench-peers` makes",
    )
    parser.epilog = __doc__


def main(name: str, arguments: argparse.Namespace) -> int:
    """Measure, print tables, and one JSON object as the last line."""
    set_environment()
    if arguments.what == "collect":
        from blm.pipelines.benchmarks.collect import bench_collect

        result = bench_collect(arguments.episodes, arguments.rounds, arguments.pictures, arguments.peer_python)
    else:
        from blm.pipelines.benchmarks.render import bench_render

        result = bench_render(arguments.episodes, arguments.rounds)
    print(json.dumps(result))
    return 0
