"""Costs from a finished run: what its manifests, curves and timings say a unit took there.

Where a stage measured its own work (workers' busy time, training curves, physics), the unit cost is that, and the
stage's start-up remains a prediction. Of the other stages only the wall time is known: their unit cost is what is left
of it after the start-up that the given costs assume, so on that same run they are right by construction.
"""

import json
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from blm.model.errors import UserError
from blm.pipelines.config import RunConfig
from blm.pipelines.keeping import RUN
from blm.pipelines.planning.costs import Costs
from blm.pipelines.planning.workload import Workload, count
from blm.pipelines.schema import build
from blm.pipelines.stages import STAGES
from blm.pipelines.workspace import read_json, read_manifest

Found = dict[str, float]
"""Entries of the group `cpu`."""
LEAST = 1e-9


def finished(run: Path) -> dict[str, dict[str, Any]]:
    """Manifests of a run's finished stages in order, "folder" added to each: of the folders that the run was last asked
    for, else the newest of the stage. UserError if the folder holds no run.
    """
    asked = read_json(run / RUN)["stages"]
    found = {}
    for stage in STAGES:
        folders = [run / asked[stage.name]["folder"]] if stage.name in asked else []
        folders += sorted(run.glob(f"{stage.name}-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in folders:
            manifest = read_manifest(folder)
            if manifest is not None:
                found[stage.name] = manifest | {"folder": folder}
                break
    return found


def run_config(run: Path, done: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """The configuration that the finished stages of a run were made with."""
    values = dict(read_json(run / RUN)["config"])
    for name, manifest in done.items():
        values |= {name: manifest["config"], "world": manifest["world"], "resources": manifest["resources"]}
    config: RunConfig = build(RunConfig, _known(RunConfig, values), where=str(run))
    return config


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Without options that this version does not have: a run of an older one still tells what its work took."""
    kinds = get_type_hints(cls)
    return {
        name: _known(kinds[name], value) if is_dataclass(kinds[name]) and isinstance(value, Mapping) else value
        for name, value in values.items()
        if name in kinds
    }


def measure(run: Path, costs: Costs) -> Costs:
    """`costs` with what a run on one machine without GPUs measured in place of it. UserError for other runs."""
    done = finished(run)
    config = run_config(run, done)
    if not done:
        raise UserError(f"{run} has no finished stage to measure costs from; finish one, or give another run")
    if config.resources.device != "cpu":
        raise UserError(f"{run} ran on GPUs, of which costs are not measured but worked out; give a run on CPUs")
    machine = next(iter(done.values()))["machine"]
    cores = min(machine["cores"], config.resources.num_cpus)
    costs = _measured_shares(costs, done)
    work = count(config, costs)
    found: Found = {}
    for name, measured in MEASURES.items():
        if name in done:
            found |= measured(done[name], work, costs, cores)
    found = {name: max(value, LEAST) for name, value in found.items()}
    local = replace(costs.nodes["local"], cores=cores)
    return replace(
        costs,
        measured_on=f"{run}: {cores} cores of {machine['cpu']}",
        cpu=replace(costs.cpu, **found),
        nodes={**costs.nodes, "local": local},
    )


def measure_requests(bench: Path, costs: Costs) -> Costs:
    """`costs` with a served request as the JSON line of `blm bench serve` found it, at the most robots side by side."""
    lines = [line for line in bench.read_text().splitlines() if line.startswith("{")] if bench.is_file() else []
    if not lines:
        raise UserError(f"{bench} holds no JSON line of `blm bench serve`; give the file that its output went to")
    record = json.loads(lines[-1])
    if record.get("bench") != "serve" or "actions" not in record:
        raise UserError(f"{bench} is not of `blm bench serve` with its robots; give the file that its output went to")
    robots = {int(name): row["per_s"] for name, row in record["actions"]["robots"].items() if name.isdigit()}
    request_s = record["machine"]["cores"] / robots[max(robots)]
    return replace(costs, cpu=replace(costs.cpu, request_s=request_s))


def _measured_shares(costs: Costs, done: Mapping[str, Mapping[str, Any]]) -> Costs:
    """What the run says of work that configurations do not: steps of demonstrations, lengths of rollouts."""
    shares = costs.workload
    collected = done["collect"]["summary"]["cells"] if "collect" in done else {}
    steps = {cell: float(row["median_steps"]) for cell, row in collected.items()}
    shares = replace(shares, steps_by_cell=shares.steps_by_cell | steps)
    if "evaluate" in done:
        rolled = [row for row in _lines(done["evaluate"]["folder"] / "episodes.jsonl") if row["policy"] != "random"]
        demonstrated = sum(shares.steps(row["cell"]) for row in rolled)
        if rolled:
            shares = replace(shares, rollout_steps_ratio=sum(row["steps"] for row in rolled) / demonstrated)
    return replace(costs, workload=shares)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


# -------------------------------------------------------------------------------------------------------- one a stage


def _collect(manifest: Mapping[str, Any], work: Workload, costs: Costs, cores: int) -> Found:
    summary = manifest["summary"]
    rate = summary["episodes_per_core_minute"]
    if not rate:  # a later attempt found everything done
        return {}
    return {"control_step_s": 60 / rate / (work.control_steps / work.demonstrations)}


def _render(manifest: Mapping[str, Any], work: Workload, costs: Costs, cores: int) -> Found:
    assembly_s = work.pictures * work.size_ratio * costs.cpu.picture_assembly_s
    left_s = manifest["wall_s"] - costs.starts.renderers_s - assembly_s
    return {"picture_s": left_s * cores / (work.pictures * work.size_ratio)}


def _corpora(manifest: Mapping[str, Any], work: Workload, costs: Costs, cores: int) -> Found:
    pictures = work.scenes + work.clips * costs.sizes.episode_clip_pictures / len(work.config.world.cameras)
    left_s = manifest["wall_s"] - costs.starts.scenes_s - (work.scenes + work.clips) * costs.cpu.scene_choice_s
    return {"scene_s": left_s * cores / (pictures * work.size_ratio)}


def _stage1(manifest: Mapping[str, Any], work: Workload, costs: Costs, cores: int) -> Found:
    config, found = work.config.stage1, Found()
    curve = read_json(manifest["folder"] / "metrics.json")["curve"]
    seconds = {True: 0.0, False: 0.0}
    before = 0
    tokens = 0.0
    for point in curve:
        warming = point["step"] <= config.vision_steps
        rows = (point["step"] - before) * (config.vision_batch if warming else config.batch)
        seconds[warming] += rows / point["samples_per_s"]
        tokens += 0.0 if warming else rows * point["tokens_per_s"] / point["samples_per_s"]
        before = point["step"]
    if work.vision_samples and seconds[True]:
        found["vision_sample_s"] = seconds[True] * cores / work.vision_samples
    if tokens:
        found["token_s"] = seconds[False] * cores / (work.rows * work.row.tokens)
    return found


def _intents(manifest: Mapping[str, Any], work: Workload, costs: Costs, cores: int) -> Found:
    robots = len({cell.robot for cell in work.config.world.parsed_cells()})
    left_s = manifest["wall_s"] - robots * costs.starts.models_s - work.frames * costs.cpu.intent_check_s
    return {"intent_frame_s": left_s * cores / work.intents}


def _stage2(manifest: Mapping[str, Any], work: Workload, costs: Costs, cores: int) -> Found:
    return {"policy_sample_s": cores / manifest["summary"]["samples_per_s"]}


def _evaluate(manifest: Mapping[str, Any], work: Workload, costs: Costs, cores: int) -> Found:
    folder, summary = manifest["folder"], manifest["summary"]
    episodes = _lines(folder / "episodes.jsonl")
    timings = _lines(folder / "timings.jsonl") or [row for row in episodes if "physics_s" in row]
    steps = sum(row["steps"] for row in episodes)
    found = Found()
    step_s = costs.cpu.rollout_step_s
    if timings and steps:
        step_s = found["rollout_step_s"] = sum(row["physics_s"] for row in timings) / steps
    physics_s = (work.rollout_steps + work.random_steps) * step_s
    found["rollout_look_s"] = ((summary["rollouts_s"] - costs.starts.rollouts_s) * cores - physics_s) / work.looks
    left_s = manifest["wall_s"] - summary["rollouts_s"] - costs.starts.answers_s
    found["answer_s"] = left_s * cores / work.answers
    return found


MEASURES = {
    "collect": _collect,
    "render": _render,
    "corpora": _corpora,
    "stage1": _stage1,
    "intents": _intents,
    "stage2": _stage2,
    "evaluate": _evaluate,
}
