"""A pipeline of toy stages that ablations change: what they are asked decides, and the list `CALLS` tells what ran."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blm.actors.sim.world import WorldConfig
from blm.pipelines.ablation.study import Study
from blm.pipelines.ablation.variants import Ablation, Sweep, choose
from blm.pipelines.config import load_typed
from blm.pipelines.run import RunOptions
from blm.pipelines.stages import Stage
from blm.pipelines.workspace import ResourceConfig, StageContext, write_json

VERSION = 1
CALLS: list[str] = []
"""Names of the stages that ran, in order."""
INTERRUPT: list[str] = []
"""Stages in which a person presses Ctrl-C."""
CELLS = ("panda/PushCube", "panda/PickCube")
EPISODES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage1Config:
    steps: int = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class IntentsConfig:
    layer: int = 3
    gate: str = "stop"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage2Config:
    future: bool = True
    memory_gb: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    random_episodes: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    name: str = "toy"
    seed: int = 0
    world: WorldConfig = field(default_factory=lambda: WorldConfig(cells=CELLS))
    resources: ResourceConfig = field(default_factory=ResourceConfig)
    stage1: Stage1Config = field(default_factory=Stage1Config)
    intents: IntentsConfig = field(default_factory=IntentsConfig)
    stage2: Stage2Config = field(default_factory=Stage2Config)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


def stage1(config: Stage1Config, context: StageContext) -> dict[str, Any]:
    """A model is as good as the steps it took."""
    _called("stage1")
    write_json(context.out / "model.json", {"quality": min(config.steps, 10)})
    return {}


def intents(config: IntentsConfig, context: StageContext) -> dict[str, Any]:
    """Objects are found best in block 3."""
    _called("intents")
    quality = json.loads((context.inputs["stage1"] / "model.json").read_text())["quality"]
    error_cm = 11 - quality + abs(config.layer - 3)
    if error_cm > 5 and config.gate == "stop":
        raise RuntimeError("the gate is shut")
    write_json(context.out / "probe.json", {"cells": [{"cell": cell, "object_cm": error_cm} for cell in CELLS]})
    return {}


def stage2(config: Stage2Config, context: StageContext) -> dict[str, Any]:
    """A policy is as good as its intents."""
    _called("stage2")
    if config.memory_gb > 99:
        raise MemoryError("a hundred gigabytes asked for")
    error_cm = json.loads((context.inputs["intents"] / "probe.json").read_text())["cells"][0]["object_cm"]
    skill = max(0, 16 - error_cm - 2 * (not config.future))
    write_json(context.out / "policy.json", {"skill": skill})
    return {"val_flow": 1 / (1 + skill), "samples_per_s": 7.0}


def evaluate(config: EvaluateConfig, context: StageContext) -> dict[str, Any]:
    """Of 20 scenes a policy does the easiest; pushing is easier than picking."""
    _called("evaluate")
    skill = json.loads((context.inputs["stage2"] / "policy.json").read_text())["skill"]
    lines = []
    for policy, able in (("blm", skill), ("random", 0)):
        for place, cell in enumerate(CELLS):
            for seed in range(EPISODES if policy == "blm" else config.random_episodes):
                success = seed < able - 4 * place
                result = {"success": success, "failure": "none" if success else "timeout", "error": False, "steps": 9}
                lines.append({"cell": cell, "seed": seed, "policy": policy} | result)
    (context.out / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"digital_accuracy": 0.5}


def _called(name: str) -> None:
    CALLS.append(name)
    if name in INTERRUPT:
        raise KeyboardInterrupt


def _stage(name: str, *inputs: str) -> Stage:
    return Stage(name=name, module=__name__, inputs=inputs, needs_ray=False, about=name)


STAGES = (
    _stage("stage1"),
    _stage("intents", "stage1"),
    _stage("stage2", "stage1", "intents"),
    _stage("evaluate", "stage2"),
)

TABLE = (
    Ablation(name="no_stage1", about="no training", overrides=("stage1.steps=0",), beside=("intents.gate=warn",)),
    Ablation(name="no_future", about="no future", overrides=("stage2.future=false",)),
    Sweep(name="layer", about="block", option="intents.layer", factors=(1 / 3, 1.0, 2.0)),
    Ablation(name="too_big", about="too big", overrides=("stage2.memory_gb=100",)),
    Ablation(name="as_it_is", about="nothing", overrides=("stage2.memory_gb=1",), beside=("intents.gate=warn",)),
)


def loader(preset: Path) -> Callable[[Sequence[str]], Config]:
    """What makes configurations from overrides; `preset` is written, and empty."""
    preset.write_text("name: toy\n")
    return lambda overrides: load_typed(Config, str(preset), overrides)


def study(root: Path, *words: str, seeds: Sequence[int] = (0,)) -> Study:
    """A study of the ablations that words name, in `root`."""
    load = loader(root / "toy.yaml")
    return Study(
        load=load,
        ablations=choose(words, load([]), TABLE),
        seeds=seeds,
        options=RunOptions(root=root),
        stages=STAGES,
        common=("evaluate.random_episodes=0",),
    )
