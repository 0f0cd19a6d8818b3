"""`blm evaluate curve`: what the latency of inference costs, and what real-time chunking gives back.

blm evaluate curve runs/tiny                                              our policy of a run
blm evaluate curve runs/tiny/stage2-1a2b3c4d/model --latencies 0,2,4,8 --modes plain,ensemble,real_time
blm evaluate curve blm://host:8765 --cells panda/PushCube --episodes 100

The policy is rolled out on the same scenes under each latency, which is simulated: an answer can be used so many
control steps after the look that it belongs to (docs/execution.md). What is there is not run again, so a curve that was
broken off goes on, and one with more points keeps those it has.

    curve.json              a point a mode and latency: success with Wilson's interval, time, jerk, failures; and
                            whether the mode differs from plain execution on the same scenes (McNemar's exact p)
    curve.html              the same as charts
    <mode>-<latency>/       the episodes of a point, as of `blm evaluate policy`
"""

import argparse
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from blm.actors.sim.execution_options import ExecutionConfig, Mode
from blm.actors.sim.world import WorldConfig, control_hz, seed_range
from blm.model.errors import UserError
from blm.pipelines.evaluate import EvaluateConfig
from blm.pipelines.evaluation.command_options import add_policy_arguments, settings_of, world_of
from blm.pipelines.evaluation.curve_page import html, text
from blm.pipelines.evaluation.references import is_address, is_folder
from blm.pipelines.evaluation.standalone import evaluate_policy, name_of
from blm.pipelines.keeping import RUN
from blm.pipelines.ledger import Record
from blm.pipelines.policy_training.regimes import read_models
from blm.pipelines.statistics import mcnemar, one_backend, success_row
from blm.pipelines.workspace import ResourceConfig, read_json, write_json, write_text

LATENCIES = (0, 1, 2, 4, 6, 8)
PLAIN: Mode = "plain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """What is measured."""

    reference: str
    """The policy."""
    name: str
    """What it is called in results."""
    mapping: Path | None
    """Of a server."""
    world: WorldConfig
    seeds: range
    executions: tuple[ExecutionConfig, ...]
    """A point each."""
    out: Path


def executions(base: ExecutionConfig, modes: Sequence[str], latencies: Sequence[int]) -> tuple[ExecutionConfig, ...]:
    """All points, those of a latency together, plain ones first. UserError for what no point can be."""
    order = sorted(dict.fromkeys(modes), key=lambda mode: mode != PLAIN)
    made = {(latency, mode) for latency in latencies for mode in order}
    if not made:
        raise UserError("a curve needs a mode and a latency; give --modes and --latencies")
    places = sorted(made, key=lambda point: (point[0], order.index(point[1])))
    return tuple(replace(base, mode=mode, latency_steps=latency) for latency, mode in places)  # type: ignore[arg-type]


def measure(
    curve: Curve, config: EvaluateConfig, resources: ResourceConfig, say: Callable[[str], None]
) -> dict[str, Any]:
    """Roll out point after point. Returns the curve; `curve.json` holds it as far as it is known."""
    from blm.cluster.ray_runtime import connected

    done: dict[tuple[str, int], list[Record]] = {}
    result: dict[str, Any] = {}
    with connected(num_cpus=resources.num_cpus, num_gpus=resources.num_gpus, object_store_gb=resources.object_store_gb):
        for execution in curve.executions:
            say(f"{execution.mode}, {execution.latency_steps} steps of latency")
            records = evaluate_policy(
                curve.reference,
                world=curve.world,
                cells=curve.world.cells,
                seeds=curve.seeds,
                out=curve.out / f"{execution.mode}-{execution.latency_steps}",
                config=replace(config, execution=execution),
                resources=resources,
                mapping=curve.mapping,
                name=curve.name,
                say=say,
            ).records
            wanted = [one for one in records if one["cell"] in curve.world.cells and one["seed"] in curve.seeds]
            done[execution.mode, execution.latency_steps] = wanted
            result = summary(curve, done)
            write_json(curve.out / "curve.json", result)
    return result


def summary(curve: Curve, done: Mapping[tuple[str, int], Sequence[Record]]) -> dict[str, Any]:
    """The curve as plain values. `done`: episodes by mode and latency in control steps."""
    return {
        "policy": curve.name,
        "backend": one_backend(record for records in done.values() for record in records),
        "cells": list(curve.world.cells),
        "seeds": len(curve.seeds),
        "control_hz": control_hz,
        "execute_steps": curve.executions[0].execute_steps,
        "points": [
            {
                "mode": mode,
                "latency_steps": latency,
                "latency_ms": round(1000 * latency / control_hz),
                **success_row(records),
                "against_plain": _against(records, done.get((PLAIN, latency))) if mode != PLAIN else None,
            }
            for (mode, latency), records in done.items()
        ],
    }


def _against(records: Sequence[Record], plain: Sequence[Record] | None) -> dict[str, Any] | None:
    """McNemar's test of a mode against plain execution in the same scenes at the same latency."""
    if plain is None:
        return None
    first, second = (_successes(side) for side in (records, plain))
    return mcnemar(first, second)


def _successes(records: Sequence[Record]) -> dict[Hashable, bool]:
    return {(one["cell"], one["seed"]): one["success"] for one in records}


# ------------------------------------------------------------------------------------------------------------- command


def checkpoint_of(reference: str) -> str:
    """What a run's folder stands for: its policy's checkpoint. Anything else stands for itself.

    UserError for a run that has not come so far, or that has several policies.
    """
    run = Path(reference)
    if not is_folder(reference) or not (run / RUN).is_file():
        return reference
    stage = read_json(run / RUN)["stages"].get("stage2", {}).get("folder", "")
    if not stage or not (run / stage / "models.json").is_file():
        raise UserError(f"{run} has no trained policy yet; run its stage `stage2` first")
    models = read_models(run / stage)
    if len(models) != 1:
        raise UserError(f"{run} has {len(models)} policies; name one of the folders in {run / stage}")
    return str(run / stage / models[0]["folder"])


def check_modes(reference: str, modes: Sequence[str]) -> None:
    """UserError if a mode is unknown, or real-time chunking is asked of a policy that is known not to have it."""
    from blm.model.checkpoint import KIND
    from blm.model.checkpoint_files import read_folder

    for mode in modes:
        if mode not in get_args(Mode):
            raise UserError(f"--modes: {mode!r} is none of {', '.join(get_args(Mode))}")
    if "real_time" not in modes:
        return
    foreign = is_address(reference) and not reference.startswith("blm://")
    if foreign or (is_folder(reference) and read_folder(Path(reference))["kind"] != KIND):
        raise UserError(f"{reference} cannot go on from a chunk in execution; leave real_time out of --modes")


def default_out(reference: str, name: str) -> Path:
    """`curve/<name>` in the run that the policy belongs to, else in `runs`."""
    folders = [Path(reference).resolve(), *Path(reference).resolve().parents] if is_folder(reference) else []
    run = next((folder for folder in folders if (folder / RUN).is_file()), Path("runs"))
    return run / "curve" / name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `blm evaluate curve`."""
    parser.epilog = __doc__
    add_policy_arguments(
        parser,
        out="default: curve/ in the policy's run, else runs/curve/",
        policy="a run, a checkpoint folder, or a blm:// address",
    )
    parser.add_argument(
        "--latencies",
        default=",".join(map(str, LATENCIES)),
        metavar="N,N,...",
        help="control steps, of 50 ms each, from a look until its answer can be used (default: %(default)s)",
    )
    parser.add_argument("--modes", default="plain,real_time", metavar="MODE,...", help="(default: %(default)s)")
    parser.add_argument("--name", default="", help="its name in results")


def main(name: str, arguments: argparse.Namespace) -> int:
    """Measure, print the table, and one JSON object as the last line."""
    from blm.cluster.ray_runtime import set_environment

    set_environment()
    reference = checkpoint_of(arguments.policy)
    modes = arguments.modes.split(",")
    check_modes(reference, modes)
    config, resources = settings_of(arguments)
    called = arguments.name or name_of(reference)
    curve = Curve(
        reference=reference,
        name=called,
        mapping=arguments.mapping,
        world=world_of([reference], arguments),
        seeds=seed_range("evaluate")[: arguments.episodes],
        executions=executions(config.execution, modes, _numbers(arguments.latencies)),
        out=arguments.out or default_out(reference, called),
    )
    result = measure(curve, config, resources, lambda line: print(f"[curve] {line}", flush=True))
    write_text(curve.out / "curve.html", html(result))
    print(text(result))
    points = [{key: point[key] for key in ("mode", "latency_ms", "rate", "low", "high")} for point in result["points"]]
    print(json.dumps({"out": str(curve.out), "points": points}))
    return 0


def _numbers(written: str) -> list[int]:
    """`0,2,4` as numbers. UserError for anything else."""
    parts = written.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise UserError(f"--latencies is {written!r}; give whole numbers of control steps, such as 0,2,4")
    return sorted({int(part) for part in parts})
