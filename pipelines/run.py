"""Runs stages in order, skips what is finished, resumes what is not.

    blm run --preset tiny
    blm run --preset tiny --set stage2.steps=500 --name trial --until stage2
    blm stage2 --preset tiny            # that stage alone; its inputs must be finished

A killed run is continued by the same command. A run in which everything is finished starts neither Ray nor MLflow.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blm.cluster import depot, ray_runtime
from blm.model.errors import UserError
from blm.pipelines import interrupt, keeping
from blm.pipelines.fingerprint import plain, versions
from blm.pipelines.lock import locked
from blm.pipelines.memory import Meter, machine
from blm.pipelines.plan import Done, Step, check_code, discard, finished, input_identities, make_plan
from blm.pipelines.show import print_header, print_result, print_skip, rule, stage_table, success_table
from blm.pipelines.stages import STAGES, Stage, find_stage
from blm.pipelines.tracking import Status, open_tracker
from blm.pipelines.watch import watched
from blm.pipelines.workspace import (
    BEGUN,
    MANIFEST_FORMAT,
    StageContext,
    content_hash,
    list_files,
    read_json,
    write_json,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What a person asks of one call, beside the configuration."""

    root: Path = Path("runs")
    """Folder of all runs; of those in a store, what `depot.enter` says."""
    only: str | None = None
    """Run this stage alone; its inputs must be finished."""
    until: str | None = None
    """Stop after this stage."""
    redo_from: str | None = None
    """Make this stage and all later ones anew."""
    accept_code: bool = False
    """Keep work that other code made."""
    address: str | None = None
    """Ray cluster to join instead of starting one."""


def run(config: Any, options: RunOptions, stages: Sequence[Stage] = STAGES) -> dict[str, Done]:
    """Run what `options` ask for. Returns the stages it covered, by name.

    config: has `name`, `seed`, `world`, `resources`, and one attribute a stage (`RunConfig`, outside tests).
    Raises UserError for anything a person can mend.
    """
    run_root = options.root / config.name
    chosen = _choose(stages, options)
    with locked(run_root) as still_held:
        plan = make_plan(config, stages, run_root)
        keeping.bring_notes(plan)
        steps = [plan[stage.name] for stage in chosen]
        if options.redo_from is not None:
            discard([plan[stage.name] for stage in stages[find_stage(options.redo_from, stages) :]])
        check_code(steps, accept=options.accept_code)
        write_json(run_root / keeping.RUN, _run_record(config, plan))
        depot.keep(run_root / keeping.RUN)
        done: dict[str, Done] = {}
        had_ray = ray_runtime.is_up()
        try:
            for number, step in enumerate(steps, start=1):
                manifest = finished(step, plan)
                if manifest is not None:
                    print_skip(step.stage, number, len(steps), manifest)
                else:
                    manifest = _run_step(step, plan, config, options, number, len(steps), still_held)
                done[step.stage.name] = Done(folder=step.folder, manifest=manifest)
        except Exception as error:
            if (logs := ray_runtime.log_folder()) is not None:
                error.add_note(f"the worker processes' logs are in {logs}")
            raise
        finally:
            if not had_ray:
                ray_runtime.disconnect()
    return done


def _choose(stages: Sequence[Stage], options: RunOptions) -> Sequence[Stage]:
    """The stages a call covers, in order."""
    if options.only is not None:
        position = find_stage(options.only, stages)
        return stages[position : position + 1]
    last = find_stage(options.until, stages) if options.until else len(stages) - 1
    if options.redo_from is not None and find_stage(options.redo_from, stages) > last:
        raise UserError(f"--from {options.redo_from} comes after --until {options.until}; nothing would run")
    return stages[: last + 1]


def _run_step(
    step: Step,
    plan: Mapping[str, Step],
    config: Any,
    options: RunOptions,
    number: int,
    of: int,
    still_held: Callable[[], None],
) -> dict[str, Any]:
    """Run one stage to its manifest, going on from what an earlier attempt left."""
    inputs = input_identities(step, plan)  # before anything is started: a missing input is quick to say
    depot.here(step.folder)
    record = _begin(step, inputs)
    print_header(step.stage, number, of, step.folder, attempt=record["attempts"])

    def tick(wall_s: float) -> None:
        write_json(step.folder / BEGUN, record | {"wall_s": record["wall_s"] + wall_s})

    keeping.bring_folders({name: plan[name].folder for name in step.stage.inputs})
    with watched(step.folder, step.stage.name, attempt=record["attempts"]), Meter(tick) as meter:
        summary = _call(step, plan, config, options)
    depot.here(step.folder)  # what workers on other nodes have made
    files = list_files(step.folder)
    manifest = {
        "format": MANIFEST_FORMAT,
        "stage": step.stage.name,
        "version": step.version,
        "fingerprint": step.fingerprint,
        "config": plain(step.config),
        "world": plain(config.world),
        "seed": config.seed,
        "resources": plain(config.resources),
        "inputs": inputs,
        "summary": summary,
        "begun": record["begun"],
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        "attempts": record["attempts"],
        "wall_s": round(record["wall_s"] + meter.wall_s, 2),
        "peak_memory_gb": round(meter.peak_gb, 2),
        "machine": machine(),
        "versions": versions(),
        "code": step.code,
        "other_code": [code for code in (record["code"],) if code != step.code],
        "content": content_hash(files),
        "files": files,
    }
    keeping.keep_tracking(step.folder.parent)
    still_held()
    keeping.keep_stage(step.folder, manifest)
    print_result(manifest)
    return manifest


def _begin(step: Step, inputs: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Note that a stage has begun in its folder; returns the note, with what earlier attempts took in `wall_s`.

    Raises UserError if an earlier attempt worked from other data.
    """
    record: dict[str, Any] = {
        "stage": step.stage.name,
        "fingerprint": step.fingerprint,
        "code": step.code,
        "inputs": inputs,
        "begun": time.strftime("%Y-%m-%d %H:%M:%S"),
        "attempts": 0,
        "wall_s": 0.0,
    }
    if (step.folder / BEGUN).exists():
        record |= read_json(step.folder / BEGUN)
        if record["inputs"] != inputs:
            name = step.stage.name
            raise UserError(f"stage {name}: {step.folder} was begun on other data; run again with --from {name}")
    record["attempts"] += 1
    write_json(step.folder / BEGUN, record)
    depot.keep(step.folder / BEGUN)
    return record


def _call(step: Step, plan: Mapping[str, Step], config: Any, options: RunOptions) -> dict[str, Any]:
    """Start Ray if the stage needs it, call the stage under tracking, and return its summary."""
    resources = config.resources
    if step.stage.needs_ray:
        ray_runtime.connect(
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            object_store_gb=resources.object_store_gb,
            address=options.address,
        )
        interrupt.install()
    function, _ = step.stage.load()
    keeping.bring_tracking(step.folder.parent)
    folder = depot.address(step.folder)
    tags = {"blm.stage": step.stage.name, "blm.fingerprint": step.fingerprint, "blm.folder": folder}
    tracker = open_tracker(run_root=step.folder.parent, stage=step.stage.name, out=step.folder, tags=tags)
    status: Status = "FAILED"
    try:
        tracker.log_params({"seed": config.seed, "world": plain(config.world), step.stage.name: plain(step.config)})
        context = StageContext(
            out=step.folder.resolve(),  # workers have working folders of their own
            inputs={name: plan[name].folder.resolve() for name in step.stage.inputs},
            world=config.world,
            seed=config.seed,
            tracker=tracker,
            resources=resources,
        )
        summary = interrupt.interruptible(lambda: function(step.config, context))
        tracker.log_metrics({"summary": summary})
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)
    return summary


def _run_record(config: Any, plan: Mapping[str, Step]) -> dict[str, Any]:
    """What run.json says: the configuration last asked for and the folders it leads to."""
    return {
        "format": MANIFEST_FORMAT,
        "name": config.name,
        "asked": time.strftime("%Y-%m-%d %H:%M:%S"),
        "config": plain(config),
        "versions": versions(),
        "stages": {
            name: {"folder": step.folder.name, "fingerprint": step.fingerprint, "code": step.code}
            for name, step in plan.items()
        },
    }


def summarise(done: Mapping[str, Done]) -> str:
    """The end of a run: wall time of each stage, success of each cell with its interval, and where the report is."""
    parts = [rule("result"), stage_table({name: item.manifest for name, item in done.items()})]
    if "evaluate" in done:
        depot.here(done["evaluate"].folder / "summary.json")
        parts += ["", success_table(done["evaluate"].folder)]
    if "report" in done:
        page = depot.here(done["report"].folder / "report.html").resolve()
        parts += ["", f"  report: {page}", *([f"          {depot.address(page)}"] if depot.has_store() else [])]
    return "\n".join(parts)
