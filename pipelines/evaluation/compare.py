"""`blm evaluate compare`: which of two policies is better, scene by scene, and how sure that is.

blm evaluate compare runs/tiny runs/other                     two evaluations that are there: nothing is run
blm evaluate compare runs/tiny runs/tiny@diffusion_policy     two policies of one evaluation
blm evaluate compare runs/a/stage2-1a2b3c4d/model random      rolled out in blocks of scenes until it is decided
blm evaluate compare runs/tiny openpi://host:8000 --second-mapping openpi.yaml

Sides are runs, folders of the stage `evaluate` (or of `blm evaluate policy`), checkpoints, addresses of servers, or
`random`. Where a run or folder holds several policies, `@policy` names one.

    compare.json      verdict, difference with its interval, evidence, McNemar's p, a row a cell
    first/, second/   episodes that were rolled out for it; the same command goes on from there
"""

import argparse
import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from blm.cluster.ray_runtime import set_environment
from blm.model.errors import UserError
from blm.pipelines.evaluation import comparison
from blm.pipelines.evaluation.paired import evaluation_file, label, read_outcomes
from blm.pipelines.evaluation.sequential import Rules
from blm.pipelines.evaluation.verdicts import RESULT, text
from blm.pipelines.keeping import RUN
from blm.pipelines.workspace import read_json_if_there, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm evaluate compare`."""
    from blm.pipelines.evaluation.command_options import add_rollout_arguments

    parser.epilog = __doc__
    parser.add_argument("first", metavar="A", help="a run, an evaluation, or a policy")
    parser.add_argument("second", metavar="B", help="what it is compared with")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: compare/ in A's run, else runs/compare/")
    parser.add_argument(
        "--episodes", type=int, default=0, metavar="N", help="most scenes of each cell (default: all there are, or 50)"
    )
    parser.add_argument("--alpha", type=float, default=0.05, help="chance of calling equals different (default: 0.05)")
    parser.add_argument(
        "--stop",
        choices=("early", "never"),
        default="early",
        help="early: as soon as it is decided, at the same alpha; never: McNemar's test at the end (default: early)",
    )
    parser.add_argument(
        "--equal-within",
        type=float,
        default=0.0,
        metavar="POINTS",
        help="also stop when success rates are shown to differ by less, in percentage points (default: off)",
    )
    parser.add_argument(
        "--block", type=int, default=10, metavar="N", help="scenes of each cell before the first look (default: 10)"
    )
    parser.add_argument("--first-mapping", type=Path, metavar="FILE", help="of a server A: see docs/remote.md")
    parser.add_argument("--second-mapping", type=Path, metavar="FILE", help="of a server B")
    add_rollout_arguments(parser)


def main(name: str, arguments: argparse.Namespace) -> int:
    """Compare, print what was found, and one JSON object as the last line."""
    set_environment()
    rules = _rules(arguments)
    references = (arguments.first, arguments.second)
    found = [read_outcomes(reference) for reference in references]
    out = arguments.out or default_out(*references)
    with ExitStack() as stack:
        if any(side is None for side in found):
            from blm.pipelines.evaluation.rolled import live_sides

            first, second, cells, seeds = live_sides(references, found, out, arguments, stack)
        else:
            there = [side for side in found if side is not None]
            cells, seeds = comparison.shared_scenes(tuple(arguments.cells), there)
            first, second = (comparison.Finished(found=side) for side in there)
        seeds = seeds[: arguments.episodes or len(seeds)]
        live = first.live or second.live
        plan = comparison.Plan(
            cells=cells,
            seeds=seeds,
            looks=comparison.looks(len(seeds), arguments.block, early=arguments.stop == "early", live=live),
            rules=rules,
            end_is_spent=live and _ended_before(out / RESULT, len(seeds)),
        )
        result = comparison.compare(first, second, plan, lambda text: print(f"[compare] {text}", flush=True))
    write_json(out / RESULT, result)
    print(text(result))
    print(json.dumps({key: value for key, value in result.items() if key not in ("cells", "path")}))
    return 0


def _rules(arguments: argparse.Namespace) -> Rules:
    if arguments.episodes < 0 or arguments.block < 1:
        raise UserError("give 0 or more --episodes, and 1 or more --block")
    try:
        return Rules(
            alpha=arguments.alpha,
            on_the_way=0.5 if arguments.stop == "early" else 0.0,
            margin=arguments.equal_within / 100,
        )
    except ValueError:
        raise UserError("--alpha must lie between 0 and 1, and --equal-within from 0 to 100") from None


def _ended_before(path: Path, rounds: int) -> bool:
    """Whether a comparison with fewer scenes has come to its end here: an end can be tested once."""
    before: dict[str, Any] = read_json_if_there(path) or {}
    ended = before.get("rounds", 0) == before.get("rounds_planned", -1)
    return bool(before.get("end_was_spent")) or (ended and before["rounds"] < rounds)


def default_out(first: str, second: str) -> Path:
    """`compare/` in the run that the first is an evaluation of, else in `runs`; a folder a pair."""
    path = evaluation_file(first) or evaluation_file(first.rpartition("@")[0])
    run = path.parent.parent if path is not None and (path.parent.parent / RUN).exists() else Path("runs")
    slugs = [re.sub(r"[^A-Za-z0-9._-]+", "-", label(reference)).strip("-.") for reference in (first, second)]
    return run / "compare" / "-against-".join(slugs)
