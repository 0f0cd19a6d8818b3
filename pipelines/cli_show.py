"""`blm show`: an evaluation as text, in the paper's layout with the paper's rows below.

blm show runs/tiny                         the run's evaluation, and what comparisons it holds
blm show runs/policies/random --peers none an evaluation of `blm evaluate policy`, alone
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.evaluation.verdicts import RESULT, verdict_line
from blm.pipelines.keeping import RUN
from blm.pipelines.paper_layout import NEAREST, TITLES, layout, policies_of, text_table
from blm.pipelines.paper_tables import PHYSICAL
from blm.pipelines.workspace import read_json

SUMMARY = "summary.json"
PEERS = {"all": (*NEAREST, *(model for model in PHYSICAL if model not in NEAREST)), "nearest": NEAREST, "none": ()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm show`."""
    parser.epilog = __doc__
    parser.add_argument("folder", type=Path, metavar="DIR", help="a run, or the folder of an evaluation")
    parser.add_argument(
        "--peers",
        choices=tuple(PEERS),
        default="all",
        help="published rows below: all; those of the method and of Diffusion Policy; none (default: all)",
    )


def main(name: str, arguments: argparse.Namespace) -> int:
    """Print the table and what else is known."""
    summary = read_json(summary_file(arguments.folder))
    print(shown(summary, peers=PEERS[arguments.peers]))
    for path in sorted((arguments.folder / "compare").rglob(RESULT)):
        print(f"  {path.parent.name}: {verdict_line(read_json(path))}")
    return 0


def summary_file(folder: Path) -> Path:
    """`summary.json` of a run or of an evaluation's folder. UserError if there is none."""
    if (folder / SUMMARY).is_file():
        return folder / SUMMARY
    if (folder / RUN).is_file():
        stage = read_json(folder / RUN)["stages"].get("evaluate", {}).get("folder", "")
        if stage and (folder / stage / SUMMARY).is_file():
            return folder / stage / SUMMARY
        raise UserError(f"{folder} has not been evaluated; run its stage `evaluate` first")
    raise UserError(f"{folder} is neither a run nor an evaluation: it has no {SUMMARY}")


def shown(summary: Mapping[str, Any], *, peers: tuple[str, ...]) -> str:
    """Success in the paper's layout, then each policy over all its episodes."""
    table = layout(summary, published=peers)
    lines = [f"  simulated by: {summary.get('backend') or 'not recorded'}", "", text_table(table), ""]
    overall = {row["policy"]: row for row in summary.get("overall", [])}
    for policy in policies_of(summary):
        if policy in overall:
            lines.append(f"  {TITLES.get(policy, policy)}: {_overall(overall[policy])}")
    if any(row.policy.startswith("paper: ") for row in table.rows):
        lines += ["", "  The paper's rows come from a 7B backbone, other demonstrations and 50 episodes a cell."]
    return "\n".join(lines)


def _overall(row: Mapping[str, Any]) -> str:
    parts = [
        f"{row['successes']} of {row['episodes']} episodes, {row['rate']:.1%} ({row['low']:.0%} to {row['high']:.0%})"
    ]
    if row.get("median_time_s") is not None:
        parts.append(f"successes in {row['median_time_s']:.1f} s")
    if row.get("median_jerk_rad_s3") is not None:
        parts.append(f"jerk {row['median_jerk_rad_s3']:,.0f} rad/s\u00b3")
    if row.get("failures"):
        parts.append(", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in row["failures"].items()))
    return "; ".join(parts)
