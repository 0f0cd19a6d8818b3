"""`blm run`, and each stage as a command of its own.

blm run --preset tiny [--set stage2.steps=500] [--name trial] [--until stage2] [--from stage1]
blm stage2 --preset tiny
"""

import argparse
import json

from blm.cluster import depot
from blm.cluster.ray_runtime import set_environment
from blm.pipelines.cli_options import ROOT_HELP, options_of
from blm.pipelines.preset_files import preset_path
from blm.pipelines.stages import STAGES, find_stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm run` and, the last group left out, of each stage."""
    add_run_arguments(parser)
    stage = parser.prog.split()[-1]
    if stage == "run":
        names = " ".join(s.name for s in STAGES)
        parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
        parser.add_argument("--from", metavar="STAGE", dest="redo_from", help="make this stage and all later ones anew")
        parser.epilog = f"stages: {names}"
    else:
        if stage == "collect":
            parser.add_argument("--episodes", type=int, metavar="N", help="short for --set collect.episodes_per_cell=N")
        inputs = next(s.inputs for s in STAGES if s.name == stage)
        parser.epilog = f"needs finished: {' '.join(inputs) or 'nothing'}\n\noptions for --set:\n{options_of(stage)}"


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that runs stages needs: which configuration, which folder, which cluster."""
    parser.add_argument(
        "--preset", default="tiny", metavar="NAME", help="a shipped preset or a YAML file (default: tiny)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one option, for example --set stage2.steps=500; may be given again",
    )
    parser.add_argument("--name", metavar="NAME", help="folder of this run under --root (default: the preset's name)")
    parser.add_argument("--root", default="runs", metavar="DIR", help=ROOT_HELP)
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="join this Ray cluster (auto: the one on this machine) instead of starting one",
    )
    parser.add_argument(
        "--accept-code", action="store_true", help="keep finished and half-finished work that other code made"
    )


def main(name: str, arguments: argparse.Namespace) -> int:
    """Load the configuration and run."""
    set_environment()
    preset_path(arguments.preset)  # misspelt names are answered before anything heavy is imported
    for stage in (getattr(arguments, "until", None), getattr(arguments, "redo_from", None)):
        if stage is not None:
            find_stage(stage)
    from blm.pipelines.config import load_config
    from blm.pipelines.run import RunOptions, run, summarise

    overrides = list(arguments.overrides)
    if getattr(arguments, "episodes", None) is not None:
        overrides.append(f"collect.episodes_per_cell={arguments.episodes}")
    config = load_config(arguments.preset, overrides, name=arguments.name)
    only = None if name == "run" else name
    options = RunOptions(
        root=depot.enter(arguments.root),
        only=only,
        until=getattr(arguments, "until", None),
        redo_from=getattr(arguments, "redo_from", None),
        accept_code=arguments.accept_code,
        address=arguments.address,
    )
    done = run(config, options)
    if only is None:
        print(summarise(done))
    else:
        folder = depot.address(done[only].folder)
        print(json.dumps({"stage": only, "folder": folder} | done[only].manifest["summary"]))
    return 0
