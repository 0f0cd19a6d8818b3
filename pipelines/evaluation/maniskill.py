"""`blm evaluate maniskill`: would ManiSkill itself report what we report?

blm evaluate maniskill runs/tiny/stage2-1a2b3c4d/model --cells panda/PushCube panda/PickCube --episodes 50
blm evaluate maniskill random --cells panda/PushCube --pictures maniskill

The policy acts on the same seeds twice: in our simulator (`ours/`, as by `blm evaluate policy`) and in ManiSkill's own
environments, made with `gym.make`, with its own reset, controllers, step and success flag (docs/simulation.md). Then
both are held against each other seed by seed.

    ours/                 our evaluation
    theirs-*.jsonl        ManiSkill's, a line an episode; what is there is not run again
    maniskill.json        success both ways by cell, and how many seeds agree
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blm.actors.sim.world import WorldConfig, seed_range
from blm.model.errors import UserError
from blm.pipelines.evaluate import EvaluateConfig
from blm.pipelines.evaluation.books import KEY
from blm.pipelines.evaluation.command_options import add_policy_arguments, settings_of, world_of
from blm.pipelines.evaluation.references import OtherPolicy, check, is_folder, load_checkpoint, make_in_worker
from blm.pipelines.evaluation.standalone import evaluate_policy, name_of
from blm.pipelines.ledger import Ledger, Record
from blm.pipelines.statistics import wilson
from blm.pipelines.workspace import ResourceConfig, write_json

if TYPE_CHECKING:
    from blm.actors.sim.policies import Policy
    from blm.actors.sim.stock_rollout import Pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm evaluate maniskill`."""
    parser.epilog = __doc__
    add_policy_arguments(parser, out="folder (default: runs/maniskill/<name>)")
    parser.add_argument(
        "--pictures",
        choices=("ours", "maniskill"),
        default="ours",
        help="who draws what the policy sees in ManiSkill's simulator: we, as it was trained, or ManiSkill, with its"
        " own light and table (default: ours)",
    )


def main(name: str, arguments: argparse.Namespace) -> int:
    """Roll out both ways, print the table, and one JSON object as the last line."""
    from blm.cluster.ray_runtime import set_environment

    set_environment()
    if arguments.episodes < 1:
        raise UserError(f"--episodes is {arguments.episodes}; give 1 or more")
    config, resources = settings_of(arguments)
    world = world_of([arguments.policy], arguments)
    policy = OtherPolicy(name=name_of(arguments.policy), policy=arguments.policy, mapping=arguments.mapping)
    out = arguments.out or Path("runs") / "maniskill" / policy.name
    seeds = seed_range("evaluate")[: arguments.episodes]
    ours = evaluate_policy(
        arguments.policy,
        world=world,
        cells=world.cells,
        seeds=seeds,
        out=out / "ours",
        config=config,
        resources=resources,
        mapping=arguments.mapping,
        name=policy.name,
    ).records
    theirs = roll_out_theirs(policy, world, seeds, out, config, resources, arguments.pictures)
    result = {"pictures": arguments.pictures, **agreement(ours, theirs, world.cells)}
    write_json(out / "maniskill.json", result)
    for line in agreement_lines(result["cells"]):
        print(line)
    print(json.dumps({"out": str(out), **result}))
    return 0


def roll_out_theirs(
    policy: OtherPolicy,
    world: WorldConfig,
    seeds: Sequence[int],
    out: Path,
    config: EvaluateConfig,
    resources: ResourceConfig,
    pictures: "Pictures",
    say: Callable[[str], None] = print,
) -> list[Record]:
    """ManiSkill's episodes of all cells of the world, here in this process; those in `out` are not run again.

    UserError if the policy does not fit the world, or a cell is not one of ManiSkill's.
    """
    from blm.actors.sim.stock_rollout import StockRunner

    cells = world.parsed_cells()
    check(policy, config, world, cells)
    acting: Policy | None = None
    with Ledger(out / f"theirs-{pictures}.jsonl", KEY, keep=lambda record: not record["error"]) as ledger:
        for cell in cells:
            missing = [seed for seed in seeds if (cell.name, seed, policy.name) not in ledger]
            if not missing:
                continue
            acting = acting or acting_here(policy, config, resources)
            runner = StockRunner(cell, world, config.rollout, acting, pictures)
            for seed in missing:
                ledger.add([asdict(runner.run(seed))])
            runner.close()
            say(f"ManiSkill, {cell.name}: {len(missing)} episodes")
        wanted = set(seeds)
        return [record for record in ledger.records if record["cell"] in world.cells and record["seed"] in wanted]


class _Here:
    """A checkpoint in this process, as rollouts ask for it."""

    sees = True

    def __init__(self, policy: OtherPolicy, config: EvaluateConfig, resources: ResourceConfig) -> None:
        self.name = policy.name
        self.infer_batch = load_checkpoint(Path(policy.policy), config, resources).infer_batch


def acting_here(policy: OtherPolicy, config: EvaluateConfig, resources: ResourceConfig) -> "Policy":
    """A policy in this process. UserError if its files are damaged, or nobody answers at its address."""
    return _Here(policy, config, resources) if is_folder(policy.policy) else make_in_worker(policy, config)()


# ---------------------------------------------------------------------------------------------------------- agreement


def agreement(ours: Sequence[Record], theirs: Sequence[Record], cells: Sequence[str]) -> dict[str, Any]:
    """Both sides by cell, and over all. Seeds that ended in an error on either side are counted apart."""
    sides = [{(one["cell"], one["seed"]): one for one in records} for records in (ours, theirs)]
    rows = [
        _row(cell, *({key[1]: one for key, one in side.items() if key[0] == cell} for side in sides)) for cell in cells
    ]
    return {
        "backends": sorted({one["backend"] for one in (*ours, *theirs)}),
        "cells": rows,
        "overall": _row("all", *sides),
    }


def _row(cell: str, ours: Mapping[Any, Record], theirs: Mapping[Any, Record]) -> dict[str, Any]:
    both = ours.keys() & theirs.keys()
    pairs = [(ours[key], theirs[key]) for key in sorted(both) if not (ours[key]["error"] or theirs[key]["error"])]
    row: dict[str, Any] = {"cell": cell, "episodes": len(pairs), "errors": len(both) - len(pairs)}
    for side, name in enumerate(("ours", "maniskill")):
        successes = sum(pair[side]["success"] for pair in pairs)
        low, high = wilson(successes, len(pairs))
        row[name] = {"successes": successes, "low": round(low, 4), "high": round(high, 4)}
    agree = sum(one["success"] == other["success"] for one, other in pairs)
    row["agree"] = agree
    row["same_steps"] = sum(
        (one["success"], one["steps"]) == (other["success"], other["steps"]) for one, other in pairs
    )
    row["disagreeing_seeds"] = [one["seed"] for one, other in pairs if one["success"] != other["success"]]
    return row


def agreement_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line a cell, under a head."""
    lines = [
        f"{'cell':<24}{'episodes':>9}{'ours':>7}{'ManiSkill':>11}{'agree':>7}{'to the step':>13}  seeds that do not"
    ]
    for row in rows:
        apart = ", ".join(map(str, row["disagreeing_seeds"][:5])) or "none"
        lines.append(
            f"{row['cell']:<24}{row['episodes']:>9}{row['ours']['successes']:>7}{row['maniskill']['successes']:>11}"
            f"{row['agree']:>7}{row['same_steps']:>13}  {apart}"
        )
    return lines
