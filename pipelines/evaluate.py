"""Stage `evaluate`: what the trained model can do, on scenes and questions it has never met.

Physical: rollouts on the seeds of evaluation by parallel actors, their inference batched by a policy actor; the
baseline, others (`evaluate.others`) and random actions in the same scenes beside ours. Where training made several
models, each cell is rolled out by its own. Digital: the held-out questions of the corpora, see `digital/simulator.py`.

    episodes.jsonl    one line an episode, written as they end; what is there is not run again. Once all are there, its
                      bytes depend on the policies and the seeds alone: not on the number of actors, or on kills
    timings.jsonl     seconds of each episode: physics, drawing, waiting for the policy
    rollouts/         states and actions of our policy's episodes, in the format of demonstrations
    summary.json      success by cell, robot, task and over all, with Wilson's 95 % intervals, and McNemar's test of
                      our policy against each other one, scene by scene
    videos/*.mp4      the first successes and failures of each cell
    digital.json      answers by category

    blm evaluate --preset tiny
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from blm.actors.sim.cameras import CAMERAS
from blm.actors.sim.execution_options import ExecutionConfig
from blm.actors.sim.outcome import RolloutConfig
from blm.actors.sim.world import seed_range
from blm.model.embodiments import suggest
from blm.model.errors import UserError
from blm.pipelines.digital.simulator import DigitalConfig, evaluate_digital
from blm.pipelines.evaluation.books import Books
from blm.pipelines.evaluation.contestants import OURS, POLICIES, order
from blm.pipelines.evaluation.lines import comparison_lines, table_lines
from blm.pipelines.evaluation.references import OtherPolicy
from blm.pipelines.evaluation.rollouts import run_rollouts
from blm.pipelines.ledger import Record
from blm.pipelines.statistics import summarise_episodes
from blm.pipelines.workspace import StageContext, write_json

VERSION = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """How much is evaluated, and how."""

    episodes_per_cell: int = 30
    """Episodes of our policy in each cell; their seeds are the first ones set aside for evaluation."""
    baseline: bool = True
    """Whether the Diffusion Policy of the stage `baseline`, if there is one, acts on the same seeds."""
    others: tuple[OtherPolicy, ...] = ()
    """Other policies on the same seeds: checkpoints, or servers by their addresses."""
    random_episodes_per_cell: int = 30
    """Episodes of random actions on the same seeds."""
    random_scale_rad: float = 0.1
    """Random actions send each joint up to this far from where it is, anew at every look."""
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    """How often the policy looks, and what of its chunks is executed. See docs/execution.md."""
    euler_steps: int = 4
    """Integration steps from noise to actions."""
    guidance: float = 1.0
    """Classifier-free guidance of our policy; 1: none. Above 1 it needs a policy trained with `guidance_dropout`."""
    max_steps: int = 0
    """Control steps after which an episode has failed; 0: each task's own limit."""
    held_out_instructions: bool = False
    """Whether the policy is told its task in words kept out of training."""
    side_by_side: int = 10
    """Episodes that an actor runs together; their looks make one inference request."""
    merge: int = 0
    """Most observations of several actors' requests in one forward pass; 0: each request by itself. For accelerators:
    on CPUs the simulators of one actor work while the policy answers another."""
    wait_ms: float = 2.0
    """With `merge`: how long a pass with room left waits for more requests."""
    policy_limit_s: float = 60.0
    """A policy that has not answered by then hangs: its process is started anew, and the episode it was asked for ends
    in an error."""
    videos_per_cell: int = 2
    """Successes to film in each cell, and as many failures."""
    video_camera: str = "front"
    """Who films."""
    video_px: int = 224
    """Width and height of videos."""
    digital: DigitalConfig = field(default_factory=DigitalConfig)
    """The questions."""

    def __post_init__(self) -> None:
        for name in ("euler_steps", "side_by_side"):
            if getattr(self, name) < 1:
                raise UserError(f"evaluate.{name} is {getattr(self, name)}; give 1 or more")
        if self.policy_limit_s <= 0:
            raise UserError(f"evaluate.policy_limit_s is {self.policy_limit_s}; give seconds above 0")
        names = [*POLICIES, *(other.name for other in self.others)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"evaluate.others: there are two policies named {twice[0]!r}; choose another name")
        for name in (
            "episodes_per_cell",
            "random_episodes_per_cell",
            "max_steps",
            "merge",
            "wait_ms",
            "videos_per_cell",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"evaluate.{name} is {getattr(self, name)}; give 0 or more")
        most = len(seed_range("evaluate"))
        if max(self.episodes_per_cell, self.random_episodes_per_cell) > most:
            raise UserError(f"evaluate asks for more episodes a cell than the {most} seeds set aside for it")
        if self.video_camera not in CAMERAS:
            raise UserError(f"evaluate.video_camera: {suggest(self.video_camera, CAMERAS)}")
        if self.video_px < 32 or self.video_px % 2:
            raise UserError(f"evaluate.video_px is {self.video_px}; give an even number from 32 on")

    @property
    def rollout(self) -> RolloutConfig:
        """What the rollout workers need of it."""
        return RolloutConfig(execution=self.execution, max_steps=self.max_steps, held_out=self.held_out_instructions)


def evaluate(config: EvaluateConfig, context: StageContext) -> dict[str, Any]:
    """Roll out, film and ask. Returns the summary; UserError if the model does not fit the world, or nothing ran."""
    cells = context.world.parsed_cells()
    with Books(context.out) as books:
        work = run_rollouts(config, context, books)
        books.complete(functools.partial(_place, [cell.name for cell in cells], order(config)))
        results = books.episodes.records
    summary = summarise_episodes(results, ours=OURS)
    write_json(context.out / "summary.json", summary)
    for line in [*table_lines(summary["cells"]), *comparison_lines(summary["compared"])]:
        context.progress(line)
    context.progress(f"simulated by: {summary['backend']}")
    digital = evaluate_digital(config.digital, context)
    success = {f"{row['policy']}.{row['cell']}": row["rate"] for row in summary["cells"]}
    context.tracker.log_metrics({"success": success, "digital_accuracy": digital["accuracy"]})
    return {
        "episodes": len(results),
        "errors": sum(result["error"] for result in results),
        **{f"success_{row['policy']}": row["rate"] for row in summary["overall"]},
        **work,
        "questions": digital["n"],
        "digital_accuracy": digital["accuracy"],
        "cells": summary["cells"],
        "compared": summary["compared"],
    }


def _place(cells: Sequence[str], policies: Sequence[str], record: Record) -> tuple[int, int, int]:
    """By cell as configured, by policy, by seed: the order of work leaves no trace."""
    return cells.index(record["cell"]), policies.index(record["policy"]), record["seed"]
