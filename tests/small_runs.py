"""A finished run as `blm plan` and `blm status` read it: manifests, curves and timings made from known unit costs."""

import json
import time
from pathlib import Path
from typing import Any

from blm.pipelines.config import RunConfig, load_config
from blm.pipelines.fingerprint import plain
from blm.pipelines.planning.clusters import this_machine
from blm.pipelines.planning.costs import Costs
from blm.pipelines.planning.predict import predict
from blm.pipelines.planning.workload import count
from blm.pipelines.stages import STAGES
from blm.pipelines.workspace import write_json

CORES = 2


def finished_run(folder: Path, costs: Costs, *, slower: float = 1.0) -> RunConfig:
    """Write a tiny run whose stages took what `costs` predict, all units `slower` times as long. Returns its
    configuration.
    """
    config: RunConfig = load_config("tiny")
    work = count(config, costs)
    plans = predict(config, costs, this_machine(costs, cores=CORES)).by_name()
    steps = work.control_steps / work.demonstrations
    summaries: dict[str, dict[str, Any]] = {
        "collect": {
            "cells": {cell: {"median_steps": costs.workload.steps(cell)} for cell in config.world.cells},
            "episodes_per_core_minute": 60 / (steps * costs.cpu.control_step_s * slower),
        },
        "stage2": {"samples_per_s": CORES / (costs.cpu.policy_sample_s * slower)},
        "evaluate": {"rollouts_s": _rollouts_s(plans["evaluate"].phases[0].parts["cores"], costs, slower)},
    }
    names = {stage.name: f"{stage.name}-01234567" for stage in STAGES}
    for name, plan in plans.items():
        busy = sum(max(phase.parts.values(), default=0.0) for phase in plan.phases)
        _write_manifest(folder / names[name], name, config, plan.seconds + (slower - 1) * busy, summaries.get(name, {}))
    write_json(folder / names["stage1"] / "metrics.json", {"curve": _curve(config, costs, slower)})
    _write_episodes(folder / names["evaluate"], config, costs, slower)
    stages = {name: {"folder": folder_name} for name, folder_name in names.items()}
    write_json(
        folder / "run.json", {"asked": "2026-01-01 10:00:00", "name": "tiny", "config": plain(config), "stages": stages}
    )
    return config


def _rollouts_s(busy_s: float, costs: Costs, slower: float) -> float:
    return costs.starts.rollouts_s + slower * busy_s


def _write_manifest(folder: Path, stage: str, config: RunConfig, wall_s: float, summary: dict[str, Any]) -> None:
    manifest = {
        "format": 1,
        "stage": stage,
        "fingerprint": "0" * 64,
        "content": "0" * 64,
        "inputs": {},
        "files": [],
        "summary": summary,
        "code": "0" * 64,
        "wall_s": wall_s,
        "attempts": 1,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        "machine": {"cpu": "test", "cores": CORES, "memory_gb": 8.0, "gpu": None},
        "config": plain(getattr(config, stage)),
        "world": plain(config.world),
        "resources": plain(config.resources),
    }
    write_json(folder / "manifest.json", manifest)


def _curve(config: RunConfig, costs: Costs, slower: float) -> list[dict[str, float]]:
    """Points of 25 steps: the warm-up, then conversations."""
    stage1, row = config.stage1, count(config, costs).row
    warm = CORES / (costs.cpu.vision_sample_s * slower)
    tokens = CORES / (costs.cpu.token_s * slower)
    points: list[dict[str, float]] = []
    for step in range(25, stage1.vision_steps + stage1.steps + 1, 25):
        warming = step <= stage1.vision_steps
        rate = warm if warming else tokens / row.tokens
        points.append({"step": step, "samples_per_s": rate, "tokens_per_s": warm if warming else tokens})
    return points


def _write_episodes(folder: Path, config: RunConfig, costs: Costs, slower: float) -> None:
    """Rollouts as long as the costs say, of the trained policy and of random actions."""
    rows = []
    for cell in config.world.cells:
        steps = costs.workload.steps(cell) * costs.workload.rollout_steps_ratio
        lengths = [("blm", steps)] * config.evaluate.episodes_per_cell
        lengths += [("random", costs.workload.random_rollout_steps)] * config.evaluate.random_episodes_per_cell
        for policy, length in lengths:
            physics_s = length * costs.cpu.rollout_step_s * slower
            rows.append({"cell": cell, "policy": policy, "steps": length, "physics_s": physics_s})
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
