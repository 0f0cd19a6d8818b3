"""`blm bench`: speed, shown by running it. The last line of every benchmark is one JSON object.

blm bench collect     demonstrations a core-minute, beside ManiSkill's own motion-planning examples
blm bench render      pictures a second: light and official geometry, strides, one process and two
blm bench stage1      tokens a second in training, packed and padded; the share of the hardware's arithmetic used
blm bench stage2      samples a second in training the policy: cached intents, the model in the loop, random tensors
blm bench feed        training windows a second, beside lerobot's dataset with a DataLoader
blm bench ingest      records a second brought in, beside Hugging Face datasets with a DataLoader; memory of a process
blm bench rollout     control steps a second, beside ManiSkill's own loop; where the time of an evaluation goes
blm bench invariance  what it costs that a row's chunk does not depend on the batch it is in
blm bench scaling     what a second process brings for data, rollouts and control
blm bench serve       answers of the server beside bare `vllm serve`; latency of robots; memory
blm bench serve-chaos replicas that come, go and are killed, upgrades and overload: requests that failed
"""

import argparse
import importlib
import json
from dataclasses import dataclass
from pathlib import Path

from blm.cluster.ray_runtime import set_environment


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One benchmark: the function `bench_<name>` of `benchmarks/<name>.py`, `_` for `-`."""

    options: tuple[str, ...]
    """The options it takes, handed on by these names."""
    peer_python: Path | None = None
    """Where the Python of its peer's environment stands, if it has a peer."""


BENCHMARKS = {
    "collect": Benchmark(
        options=("episodes", "rounds", "pictures", "peer_python"), peer_python=Path(".venv-maniskill/bin/python")
    ),
    "render": Benchmark(options=("episodes", "rounds")),
    "stage1": Benchmark(options=("device", "rounds")),
    "stage2": Benchmark(options=("preset", "device", "steps")),
    "feed": Benchmark(
        options=("windows", "episodes", "rounds", "processes", "peer_python"),
        peer_python=Path(".venv-lerobot/bin/python"),
    ),
    "ingest": Benchmark(
        options=("records", "rounds", "gigabytes", "processes", "peer_python"),
        peer_python=Path(".venv-datasets/bin/python"),
    ),
    "rollout": Benchmark(options=("seconds", "policy")),
    "invariance": Benchmark(options=("seconds", "policy")),
    "scaling": Benchmark(options=("seconds", "rounds", "preset")),
    "serve": Benchmark(options=("model", "url", "preset", "device", "parts", "seconds", "rounds")),
    "serve-chaos": Benchmark(options=("model", "overload_seconds", "chat")),
}
"""By name, in the order of the list above."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, and how much of it."""
    parser.add_argument("what", choices=tuple(BENCHMARKS), help="what to measure")
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
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="stage1, stage2, serve: where the model is (default: cpu)",
    )
    parser.add_argument(
        "--preset",
        default="tiny",
        metavar="NAME",
        help="stage2, scaling, serve: whose sizes; `paper` for a GPU (default: tiny)",
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
    parser.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        metavar="N",
        help="rollout, invariance, scaling, serve: time of a case (default: 10)",
    )
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="DIR",
        help="a checkpoint. rollout: also where its time goes (default: left out); invariance: (default: one is made)",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="serve, serve-chaos: the `model` folder of a finished stage2 (default: one is made, untrained)",
    )
    parser.add_argument("--url", metavar="URL", help="serve: of a server that runs already (default: one is started)")
    parser.add_argument(
        "--parts",
        default="",
        metavar="A,B",
        help="serve: of chat, actions, together, memory (default: all that can be)",
    )
    parser.add_argument(
        "--overload-seconds", type=float, default=60.0, metavar="N", help="serve-chaos: length of it (default: 60)"
    )
    parser.add_argument("--chat", action="store_true", help="serve-chaos: replicas with vLLM, which start slowly")
    parser.epilog = __doc__


def main(name: str, arguments: argparse.Namespace) -> int:
    """Measure, print tables, and one JSON object as the last line."""
    set_environment()
    benchmark = BENCHMARKS[arguments.what]
    asked = {option: getattr(arguments, option) for option in benchmark.options}
    if "peer_python" in asked:
        asked["peer_python"] = asked["peer_python"] or benchmark.peer_python
    name = arguments.what.replace("-", "_")
    module = importlib.import_module(f"{__package__}.benchmarks.{name}")
    print(json.dumps(getattr(module, f"bench_{name}")(**asked)))
    return 0
