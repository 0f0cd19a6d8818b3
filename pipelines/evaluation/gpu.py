"""`blm evaluate gpu`: as `blm evaluate policy`, with hundreds of episodes in step in ManiSkill's GPU simulation.

blm evaluate gpu runs/paper/stage2-1a2b3c4d/model --cells panda/PickCube --episodes 1000 --copies 256

The scenes of the seeds are those of the CPU. What becomes of them differs in detail from PhysX on a CPU, and from one
run to the next, so every result says `cuda`, and tables do not mix the two. One process and one GPU, which the policy
shares. Needs CUDA.

    episodes.jsonl, timings.jsonl, summary.json      as `blm evaluate policy` writes them
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from blm.actors.sim.world import WorldConfig, seed_range
from blm.model.errors import UserError
from blm.pipelines.evaluate import EvaluateConfig
from blm.pipelines.evaluation.books import Books
from blm.pipelines.evaluation.command_options import add_policy_arguments, settings_of, world_of
from blm.pipelines.evaluation.lines import table_lines
from blm.pipelines.evaluation.maniskill import acting_here
from blm.pipelines.evaluation.references import OtherPolicy, check
from blm.pipelines.evaluation.standalone import name_of
from blm.pipelines.statistics import summarise_episodes
from blm.pipelines.workspace import ResourceConfig, write_json

if TYPE_CHECKING:
    from blm.actors.sim.scenes import Device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm evaluate gpu`."""
    parser.epilog = __doc__
    add_policy_arguments(parser, out="folder (default: runs/gpu/<name>)")
    parser.add_argument("--copies", type=int, default=256, metavar="N", help="episodes in step (default: 256)")


def main(name: str, arguments: argparse.Namespace) -> int:
    """Roll out, print the table, and one JSON object as the last line."""
    from blm.cluster.ray_runtime import set_environment

    set_environment()
    if arguments.episodes < 1 or arguments.copies < 1:
        raise UserError(f"--episodes {arguments.episodes} --copies {arguments.copies}: give 1 or more of each")
    config, resources = settings_of(arguments)
    world = world_of([arguments.policy], arguments)
    policy = OtherPolicy(name=name_of(arguments.policy), policy=arguments.policy, mapping=arguments.mapping)
    out = arguments.out or Path("runs") / "gpu" / policy.name
    seeds = seed_range("evaluate")[: arguments.episodes]
    roll_out(policy, world, seeds, out, config, resources, copies=arguments.copies)
    with Books(out) as books:
        summary = summarise_episodes(books.episodes.records, ours=policy.name)
    write_json(out / "summary.json", summary)
    for line in table_lines(summary["cells"]):
        print(line)
    print(json.dumps({"out": str(out), "overall": summary["overall"]}))
    return 0


def roll_out(
    policy: OtherPolicy,
    world: WorldConfig,
    seeds: range,
    out: Path,
    config: EvaluateConfig,
    resources: ResourceConfig,
    *,
    copies: int,
    device: "Device" = "cuda",
    say: Callable[[str], None] = print,
) -> None:
    """All episodes that `out` does not have, in groups of `copies`. UserError without CUDA, or for a policy or robot
    that does not fit.
    """
    from blm.actors.sim.many_rollouts import ManyRollouts

    cells = world.parsed_cells()
    check(policy, config, world, cells)
    acting = acting_here(policy, config, resources)
    with Books(out) as books:
        for cell in cells:
            missing = [seed for seed in seeds if (cell.name, seed, policy.name) not in books.episodes]
            if not missing:
                continue
            many = ManyRollouts(cell, world, config.rollout, acting, copies=copies, device=device)
            for first in range(0, len(missing), copies):
                finished = many.run(missing[first : first + copies])
                books.add((one.result, one.timing) for one in finished)
                say(f"{cell.name}: {first + len(finished)}/{len(missing)} episodes")
            many.close()
        books.complete(lambda record: (world.cells.index(record["cell"]), record["seed"]))
