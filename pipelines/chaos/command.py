"""`blm chaos`: the whole pipeline on a cluster of several raylets while its processes are killed one after another.

    blm chaos --preset tiny --kills 100 --seed 0
    blm chaos --preset tiny --kills 20 --root s3://bucket/chaos      # nodes that share no disk

A head that does no work and two nodes are started on this machine; `blm run` joins them and is given again whenever it
is gone. Killed with SIGKILL are worker processes (actors, training workers, Ray Data's), raylets with everything on
their node (another node, with an empty disk, comes five seconds later), and the driver. What is meant when follows from
the seed; which process is there at that moment does not. Then everything is compared with an undisturbed run of the
same configuration, which is made first. The same command goes on where it was interrupted. See docs/guarantees.md.
"""

import argparse
import json
import sys
from pathlib import Path

from blm.cluster.ray_runtime import set_environment
from blm.model.errors import UserError
from blm.pipelines.preset_files import preset_path
from blm.pipelines.stages import STAGES, find_stage

FAILED = 1
CHECKPOINTED = ("stage1", "stage2", "baseline")
"""Stages that train."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm chaos`."""
    parser.add_argument(
        "--preset", default="tiny", metavar="NAME", help="a shipped preset or a YAML file (default: tiny)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override one option"
    )
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="how many processes (default: 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="what is killed when (default: 0)")
    parser.add_argument(
        "--every", type=float, default=4.0, metavar="SECONDS", help="least mean time between two kills (default: 4)"
    )
    parser.add_argument(
        "--nodes",
        type=int,
        default=2,
        metavar="N",
        help="nodes beside the head, with as many CPUs as resources.num_cpus",
    )
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    parser.add_argument(
        "--checkpoint-every",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="between training checkpoints, in both runs (default: 5; 0: after every step)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="logs, books and the result (default: chaos/PRESET-SEED)"
    )
    parser.add_argument("--root", metavar="DIR", help="where the two runs live, a folder or a store (default: --out)")
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="DIR",
        help="a finished undisturbed run of this configuration (default: make it)",
    )
    parser.add_argument("--accept-code", action="store_true", help="go on with work that other code made")


def main(name: str, arguments: argparse.Namespace) -> int:
    """Try, print tables, and one JSON object as the last line. Exit code 1 if anything came out differently."""
    set_environment()
    preset_path(arguments.preset)  # misspelt names are answered before anything heavy is imported
    _check(arguments)
    from blm.pipelines.chaos.results import text
    from blm.pipelines.chaos.trial import Trial, run_trial
    from blm.pipelines.config import load_config
    from blm.pipelines.show import rule

    options = [f"{stage}.checkpoint_every_s={arguments.checkpoint_every:g}" for stage in CHECKPOINTED]
    options += arguments.overrides
    config = load_config(arguments.preset, options)
    workers = config.resources.train_workers
    options.append(f"resources.least_train_workers={workers}")  # fewer would train something else in the last bits
    last = find_stage(arguments.until) if arguments.until else len(STAGES) - 1
    out = arguments.out or Path("chaos") / f"{config.name}-{arguments.seed}"
    more = [f"--until={arguments.until}"] * bool(arguments.until) + ["--accept-code"] * arguments.accept_code

    def command(root: str, address: str) -> list[str]:
        sets = [word for option in options for word in ("--set", option)]
        words = [sys.executable, "-m", "blm.pipelines.cli", "run", "--preset", arguments.preset]
        return [*words, "--root", root, "--address", address, *sets, *more]

    trial = Trial(
        folder=out.resolve(),
        root=arguments.root or str(out.resolve()),
        name=config.name,
        stages=[stage.name for stage in STAGES[: last + 1]],
        command=command,
        kills=arguments.kills,
        seed=arguments.seed,
        every_s=arguments.every,
        nodes=arguments.nodes,
        cpus=max(config.resources.num_cpus, workers),
        reference=arguments.reference,
    )
    result = run_trial(trial, lambda text: print(f"[chaos] {text}", flush=True))
    print(rule("chaos"))
    print(text(result))
    print(json.dumps(result.to_json()))
    return 0 if result.equal and not result.lost and not result.doubled else FAILED


def _check(arguments: argparse.Namespace) -> None:
    """UserError for options that make no sense."""
    if arguments.kills < 0 or arguments.seed < 0:
        raise UserError("--kills and --seed must be 0 or more")
    if arguments.nodes < 2:
        raise UserError(f"--nodes is {arguments.nodes}; give 2 or more: one must be left when another is killed")
    if arguments.every <= 0 or arguments.checkpoint_every < 0:
        raise UserError("--every must be above 0 and --checkpoint-every 0 or more")
    if arguments.until:
        find_stage(arguments.until)
