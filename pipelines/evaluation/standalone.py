"""`blm evaluate policy`: roll out any policy, outside a run of the pipeline.

blm evaluate policy runs/tiny/stage2-1a2b3c4d/model --cells panda/PushCube --episodes 50
blm evaluate policy openpi://robot-server:8000 --mapping droid.yaml --cells panda/PickCube --actors auto
blm evaluate policy random --cells panda/PushCube panda/PickCube

    evaluation.json   what was evaluated, how and in which world; the folder is for nothing else
    episodes.jsonl    one line an episode; what is there is not run again
    timings.jsonl     what each took
    summary.json      success by cell, robot, task and over all

The scenes are the first ones set aside for evaluation, as in a run: two policies met the same.
"""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blm.actors.sim.world import WorldConfig, parse_cell, seed_range
from blm.model.errors import UserError
from blm.pipelines.evaluate import EvaluateConfig
from blm.pipelines.evaluation.arena import Arena
from blm.pipelines.evaluation.books import Books
from blm.pipelines.evaluation.command_options import add_policy_arguments, settings_of, world_of
from blm.pipelines.evaluation.contestants import OURS, Contestant
from blm.pipelines.evaluation.lines import table_lines
from blm.pipelines.evaluation.references import ADDRESS, OtherPolicy, check, is_folder
from blm.pipelines.evaluation.rollouts import require_some, time_shares
from blm.pipelines.ledger import Ledger, Record
from blm.pipelines.workspace import ResourceConfig, read_json_if_there, write_json

ROLLOUT_OPTIONS = (
    "random_scale_rad",
    "execution",
    "euler_steps",
    "guidance",
    "max_steps",
    "held_out_instructions",
)
"""Of `EvaluateConfig`, what outcomes depend on."""


class PolicyEvaluation:
    """One policy, and simulators for it, for as long as the `with` block lasts.

    Episodes are asked for in parts, so that somebody who looks at the results can stop. Ray is started if it is not up.
    """

    def __init__(
        self,
        policy: OtherPolicy,
        *,
        world: WorldConfig,
        out: Path,
        config: EvaluateConfig,
        resources: ResourceConfig,
        keep: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        """out: folder of the results; what is there is not run again. config: its options of rollouts. keep: whether
        states and actions are kept, in `out/rollouts`. Nothing starts before the `with` block.
        """
        self._policy, self._world, self._out, self._config = policy, world, out, config
        self._resources, self._keep, self._say = resources, out / "rollouts" if keep else None, say
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """UserError if the policy does not fit the world, or the folder holds another evaluation."""
        from blm.cluster.ray_runtime import connected
        from blm.pipelines.lock import locked

        resources = self._resources
        with ExitStack() as stack:
            stack.enter_context(locked(self._out))
            check(self._policy, self._config, self._world, self._world.parsed_cells())
            _claim(self._out, description(self._policy, self._world, self._config))
            stack.enter_context(
                connected(
                    num_cpus=resources.num_cpus, num_gpus=resources.num_gpus, object_store_gb=resources.object_store_gb
                )
            )
            self._books = stack.enter_context(Books(self._out))
            self._arena = stack.enter_context(Arena(self._config, self._world, resources, self._say))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None:
                self._books.complete(lambda record: (record["cell"], record["seed"]))

    def run(self, cells: Sequence[str], seeds: range) -> list[Record]:
        """The outcomes of these scenes in these cells, errors among them, by cell and seed."""
        parsed = tuple(parse_cell(cell) for cell in cells)
        self._arena.run(Contestant(acting=self._policy, cells=parsed, seeds=seeds, keep=self._keep), self._books)
        return [self._books.episodes[cell, seed, self._policy.name] for cell in cells for seed in seeds]

    @property
    def ledger(self) -> Ledger:
        """All outcomes in the folder, by cell, seed and policy."""
        return self._books.episodes

    @property
    def time_shares(self) -> dict[str, float]:
        """Of the simulator processes' time, the shares of physics, drawing, and waiting for the policy."""
        return time_shares(self._books.timings.records)


def evaluate_policy(
    reference: str,
    *,
    world: WorldConfig,
    cells: Sequence[str],
    seeds: range,
    out: Path,
    config: EvaluateConfig,
    resources: ResourceConfig,
    mapping: Path | None = None,
    name: str = "",
    say: Callable[[str], None] = print,
) -> Ledger:
    """Roll out a policy named by a reference (`references.py`) in some scenes of some cells of the world.

    name: what it is called in results; by default what `name_of` makes of the reference. Returns the outcomes, by
    cell, seed and policy. UserError if it does not fit the world, cannot be reached, or nothing of it could be run.
    """
    policy = OtherPolicy(name=name or name_of(reference), policy=reference, mapping=mapping)
    with PolicyEvaluation(policy, world=world, out=out, config=config, resources=resources, say=say) as evaluation:
        require_some(policy.name, evaluation.run(cells, seeds))
        return evaluation.ledger


def name_of(reference: str) -> str:
    """What a policy is called if nobody says: `random`, host-port of a server, stage of a checkpoint in a run."""
    if not is_folder(reference):
        return ADDRESS.sub("", reference).strip("/").replace(":", "-").replace("/", "-")
    path = Path(reference).resolve()
    stages = {"stage2": OURS, "baseline": "diffusion_policy"}
    return next((stages[part.partition("-")[0]] for part in path.parts if part.partition("-")[0] in stages), path.name)


def description(policy: OtherPolicy, world: WorldConfig, config: EvaluateConfig) -> dict[str, Any]:
    """What outcomes depend on, beside cell and seed. A checkpoint by its content, a server by its address."""
    known: dict[str, Any] = {"policy": policy.name, "reference": policy.policy, "content": None}
    if is_folder(policy.policy):
        contract = (Path(policy.policy) / "blm.json").read_bytes()  # which has the weights' own hashes
        known["content"] = hashlib.sha256(contract).hexdigest()
    if policy.mapping is not None:
        known["mapping"] = policy.mapping.read_text()
    options = dataclasses.asdict(config)
    world_options = {key: value for key, value in dataclasses.asdict(world).items() if key != "cells"}
    return known | {"world": world_options, "options": {name: options[name] for name in ROLLOUT_OPTIONS}}


def _claim(out: Path, now: dict[str, Any]) -> None:
    """Say in the folder what it is for. UserError if it is for something else."""
    now = json.loads(json.dumps(now))
    before = read_json_if_there(out / "evaluation.json")
    if before is None:
        write_json(out / "evaluation.json", now)
        return
    where = "reference" if now["content"] else None  # the same checkpoint may have moved
    if other := [key for key in now if key != where and before.get(key) != now[key]]:
        raise UserError(
            f"{out} holds an evaluation that differs in {other[0]!r}; choose another --out, or delete the folder"
        )


# ------------------------------------------------------------------------------------------------------------ command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm evaluate policy`."""
    parser.epilog = __doc__
    add_policy_arguments(parser, out="folder of the results (default: runs/policies/<name>)")
    parser.add_argument("--name", default="", help="its name in results")


def main(name: str, arguments: argparse.Namespace) -> int:
    """Roll out, print the table, and one JSON object as the last line."""
    from blm.cluster.ray_runtime import set_environment
    from blm.pipelines.statistics import summarise_episodes

    set_environment()
    if arguments.episodes < 1:
        raise UserError(f"--episodes is {arguments.episodes}; give 1 or more")
    config, resources = settings_of(arguments)
    world = world_of([arguments.policy], arguments)
    called = arguments.name or name_of(arguments.policy)
    out = arguments.out or Path("runs") / "policies" / called
    ledger = evaluate_policy(
        arguments.policy,
        world=world,
        cells=world.cells,
        seeds=seed_range("evaluate")[: arguments.episodes],
        out=out,
        config=config,
        resources=resources,
        mapping=arguments.mapping,
        name=called,
    )
    summary = summarise_episodes(ledger.records, ours=called)
    write_json(out / "summary.json", summary)
    for line in table_lines(summary["cells"]):
        print(line)
    print(f"simulated by: {summary['backend']}")
    print(json.dumps({"out": str(out), "backend": summary["backend"], "overall": summary["overall"]}))
    return 0
