"""`blm ablate`: what each part of the pipeline brings, by running it again without that part.

    blm ablate --preset tiny
    blm ablate --preset tiny --only no_stage1,layer --seeds 0,1
    blm ablate --preset tiny --only layer=2,latents=16

Base and ablations share one run folder, the one of `blm run` with the same preset and name; what is finished there is
not run again. The tables are printed, and kept as `ablations.json` and `ablations.md` in the run folder.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blm.cluster import depot
from blm.cluster.ray_runtime import set_environment
from blm.model.errors import UserError
from blm.pipelines.ablation.variants import ABLATIONS, BASE, Ablation, Table, choose
from blm.pipelines.cli_run import add_run_arguments
from blm.pipelines.preset_files import preset_path

if TYPE_CHECKING:  # imported when a study runs: the command line imports this to say what the options are
    from blm.pipelines.ablation.study import Outcome, Study

FAILED = 1
JSON, MARKDOWN = "ablations.json", "ablations.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm ablate`."""
    add_run_arguments(parser)
    parser.add_argument(
        "--only",
        default="",
        metavar="NAMES",
        help="these ablations, separated by commas; a sweep's name means several values, layer=2 one (default: all)",
    )
    parser.add_argument(
        "--seeds",
        default="",
        metavar="NUMBERS",
        help="repeat base and ablations with these seeds, separated by commas (default: the preset's)",
    )
    parser.epilog = "ablations:\n" + "\n".join(f"  {entry.name:<18}{entry.about}" for entry in ABLATIONS)


def main(name: str, arguments: argparse.Namespace) -> int:
    """Run the study, print its tables, and write them down. Exit code 1 if an ablation failed."""
    set_environment()
    preset_path(arguments.preset)  # misspelt names are answered before anything heavy is imported
    from blm.pipelines.ablation.study import Study
    from blm.pipelines.config import load_config
    from blm.pipelines.run import RunOptions

    def load(overrides: Sequence[str]) -> Any:
        return load_config(arguments.preset, [*arguments.overrides, *overrides], name=arguments.name)

    base = load([])
    study = Study(
        load=load,
        ablations=choose(_words(arguments.only), base),
        seeds=_seeds(arguments.seeds) or [base.seed],
        options=RunOptions(
            root=depot.enter(arguments.root), accept_code=arguments.accept_code, address=arguments.address
        ),
    )
    made_from = {"preset": arguments.preset, "overrides": list(arguments.overrides)}
    return FAILED if any(outcome.error for outcome in compare(study, ABLATIONS, made_from)) else 0


def compare(study: "Study", table: Table, made_from: dict[str, Any]) -> "list[Outcome]":
    """Run a study, print its tables, and write them into the run folder, with what earlier calls found.

    made_from: what a reader should know of the base, kept as it is.
    """
    from blm.pipelines.ablation import tables
    from blm.pipelines.ablation.results import FORMAT, results
    from blm.pipelines.ablation.study import earlier, run_study
    from blm.pipelines.show import rule
    from blm.pipelines.workspace import write_json, write_text

    known = _known(study.folder, study.load([]), table)
    outcomes = run_study(study)
    outcomes += earlier(study, known)
    base = study.load([])
    order = [
        BASE,
        *(a.name for a in choose([o.ablation.name for o in outcomes if o.ablation.name != BASE], base, table)),
    ]
    outcomes.sort(key=lambda outcome: order.index(outcome.ablation.name))
    rows = results(outcomes)
    write_json(study.folder / JSON, {"format": FORMAT} | made_from | {"seeds": list(study.seeds), "ablations": rows})
    about = "; ".join(f"{name}: {value}" for name, value in (made_from | {"seeds": list(study.seeds)}).items())
    write_text(study.folder / MARKDOWN, tables.markdown("Ablations", [f"Made by `blm ablate` ({about})."], rows))
    for name in (JSON, MARKDOWN):
        depot.keep(study.folder / name)
    print(rule("ablations"))
    print(tables.text(rows))
    print(f"\n  {depot.address((study.folder / MARKDOWN).resolve())}", flush=True)
    return outcomes


def _known(folder: Path, base: Any, table: Table) -> list[Ablation]:
    """The ablations that the last call told of. UserError if its file is damaged."""
    from blm.pipelines.workspace import read_json_if_there

    known: list[Ablation] = []
    for row in (read_json_if_there(depot.here(folder / JSON)) or {}).get("ablations", []):
        try:
            known += choose([row["name"]], base, table)
        except UserError:  # the base itself, or an ablation of another version
            continue
    return known


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _seeds(text: str) -> list[int]:
    """Whole numbers, each once. UserError otherwise."""
    words = _words(text)
    if not all(word.isdecimal() for word in words):
        raise UserError(f"--seeds {text}: give whole numbers separated by commas, for example --seeds 0,1")
    return list(dict.fromkeys(map(int, words)))
