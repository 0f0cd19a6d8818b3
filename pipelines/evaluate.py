"""Stage `evaluate`: what the trained model can do, on scenes and questions it has never met.

Physical: rollouts on the seeds of evaluation by parallel actors, their inference batched by a policy actor; the
baseline and random actions in the same scenes beside ours. Where training made several models, each cell is rolled out
by its own. Digital: the held-out questions of the corpora, see `digital/simulator.py`.

    episodes.jsonl    one line an episode, appended as they come; what is there is not run again
    rollouts/         states and actions of our policy's episodes, in the format of demonstrations
    summary.json      success by cell, robot, task and over all, with Wilson's 95 % intervals, and McNemar's test of
                      our policy against each other one, scene by scene
    videos/*.mp4      the first successes and failures of each cell
    digital.json      answers by category

    blm evaluate --preset tiny
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from blm.actors.sim.cameras import CAMERAS
from blm.actors.sim.outcome import RolloutConfig
from blm.actors.sim.policies import RandomPolicy
from blm.actors.sim.world import Cell, seed_range
from blm.model.embodiments import suggest
from blm.model.errors import UserError
from blm.pipelines.digital.simulator import DigitalConfig, evaluate_digital
from blm.pipelines.evaluation.contestants import OURS, POLICIES
from blm.pipelines.evaluation.rollouts import KEY, run_rollouts
from blm.pipelines.ledger import Ledger, Record
from blm.pipelines.statistics import summarise_episodes
from blm.pipelines.workspace import StageContext, write_json

VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """How much is evaluated, and how."""

    episodes_per_cell: int = 30
    """Episodes of our policy in each cell; their seeds are the first ones set aside for evaluation."""
    baseline: bool = True
    """Whether the Diffusion Policy of the stage `baseline`, if there is one, acts on the same seeds."""
    random_episodes_per_cell: int = 30
    """Episodes of random actions on the same seeds."""
    random_scale_rad: float = 0.1
    """Random actions send each joint up to this far from where it is, anew at every look."""
    execute_steps: int = 8
    """Actions of a chunk that are executed before the policy looks again."""
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
    """Most observations of several requests in one forward pass; 0: each request by itself, which makes outcomes
    independent of timing. For accelerators."""
    videos_per_cell: int = 2
    """Successes to film in each cell, and as many failures."""
    video_camera: str = "front"
    """Who films."""
    video_px: int = 224
    """Width and height of videos."""
    digital: DigitalConfig = field(default_factory=DigitalConfig)
    """The questions."""

    def __post_init__(self) -> None:
        for name in ("execute_steps", "euler_steps", "side_by_side"):
            if getattr(self, name) < 1:
                raise UserError(f"evaluate.{name} is {getattr(self, name)}; give 1 or more")
        for name in ("episodes_per_cell", "random_episodes_per_cell", "max_steps", "merge", "videos_per_cell"):
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
        return RolloutConfig(
            execute_steps=self.execute_steps, max_steps=self.max_steps, held_out=self.held_out_instructions
        )


def evaluate(config: EvaluateConfig, context: StageContext) -> dict[str, Any]:
    """Roll out, film and ask. Returns the summary; UserError if the model does not fit the world, or nothing ran."""
    cells = context.world.parsed_cells()
    # Episodes that ended in an error are tried again when a stage that was broken off is called again.
    with Ledger(context.out / "episodes.jsonl", KEY, keep=lambda record: not record["error"]) as ledger:
        work = run_rollouts(config, context, ledger)
        results = _in_order(ledger.records, cells)
    summary = summarise_episodes(results, ours=OURS)
    write_json(context.out / "summary.json", summary)
    _print_table(context, summary["cells"])
    _print_comparison(context, summary["compared"])
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


def _in_order(results: Sequence[Record], cells: Sequence[Cell]) -> list[Record]:
    """By cell as configured, by policy, by seed: the order of work leaves no trace."""
    place = {cell.name: i for i, cell in enumerate(cells)}
    return sorted(results, key=lambda r: (place[r["cell"]], POLICIES.index(r["policy"]), r["seed"]))


def _print_comparison(context: StageContext, rows: Sequence[dict[str, Any]]) -> None:
    """A line for each other trained policy: scenes that one alone did, and McNemar's p."""
    for row in rows:
        if row["cell"] == "all" and row["policy"] != RandomPolicy.name:
            context.progress(
                f"{OURS} against {row['policy']} in {row['pairs']} same scenes: {row['only_first']} done by {OURS}"
                f" alone, {row['only_second']} by {row['policy']} alone, McNemar's exact p = {row['p']:.3g}"
            )


def _print_table(context: StageContext, rows: Sequence[dict[str, Any]]) -> None:
    """A line a cell and policy."""
    if rows:
        context.progress(
            f"{'cell':<20}{'policy':<18}{'success':>9}{'95 % interval':>17}{'episodes':>10}{'steps':>7}  failures"
        )
    for row in rows:
        interval = f"{row['low']:.0%} to {row['high']:.0%}"
        steps = "-" if row["median_steps"] is None else f"{row['median_steps']:.0f}"
        failures = ", ".join(f"{reason} {count}" for reason, count in row["failures"].items()) or "none"
        context.progress(
            f"{row['cell']:<20}{row['policy']:<18}{row['rate']:>9.1%}{interval:>17}{row['episodes']:>10}{steps:>7}"
            f"  {failures}"
        )
