"""A process that rolls out, ManiSkill's way or ours, by request: the worker of `blm bench rollout`.

One JSON object a line on standard input, `{"case", "seconds"}` or `{"policy", "seconds", "slots"}`; one a line on
standard output. Every case acts the same: the arm sways a little about its rest posture, PickCube on the Panda, to the
task's time limit, then the next seed. Simulators are made, and the first picture is drawn, before the clock starts.
"""

import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from blm.actors.sim.execution_options import ExecutionConfig
from blm.actors.sim.outcome import Finished, RolloutConfig, RolloutItem
from blm.actors.sim.policies import Policy
from blm.actors.sim.runner import RolloutRunner
from blm.actors.sim.stock_envs import make_stock
from blm.actors.sim.world import Geometry, WorldConfig, parse_cell
from blm.model.types import ActionChunk, Observation, Prefixes
from blm.pipelines.benchmarks.workers import answer_requests

CELL = parse_cell("panda/PickCube")
EXECUTE_STEPS = 8
IMAGE_PX = 112
SWAY_RAD = 0.03


def swaying() -> npt.NDArray[np.float32]:
    """Actions of one chunk [8, A]: out and back, so that one follows another without a jump."""
    out = SWAY_RAD * np.sin(2 * np.pi * np.arange(EXECUTE_STEPS) / EXECUTE_STEPS)
    arm = np.asarray(CELL.embodiment.rest_rad) + out[:, None]
    return np.concatenate([arm, np.ones((EXECUTE_STEPS, 1))], axis=1).astype(np.float32)


class Swaying:
    """A policy of zero cost."""

    name = "swaying"

    def __init__(self, *, sees: bool) -> None:
        self.sees = sees
        self._chunk = ActionChunk(actions=swaying(), control_hz=CELL.embodiment.control_hz)

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """The same chunk for everyone."""
        return [self._chunk] * len(observations)


Round = Callable[[], tuple[int, dict[str, float]]]
"""Goes on for one look and its steps; control steps done, and seconds by kind where they are known."""


def stock(geometry: Geometry, *, every_step: bool) -> Round:
    """ManiSkill's loop: its camera, its size; drawn at every step as `obs_mode="rgb"` does, or once a chunk."""
    env = make_stock(CELL, geometry=geometry, max_steps=CELL.task_data.max_steps)
    scene: Any = env.unwrapped
    actions = swaying()
    seeds = iter(range(1 << 30))
    env.reset(seed=next(seeds))

    def go_on() -> tuple[int, dict[str, float]]:
        steps = 0
        scene._obs_mode = "rgb"
        if not every_step:
            scene.get_obs()
            scene._obs_mode = "none"  # what a step then returns is nothing, and nothing is drawn
        for action in actions:
            over = env.step(action)[3]
            steps += 1
            if bool(over.any()):
                env.reset(seed=next(seeds))
                break
        return steps, {}

    return go_on


def ours(policy: Policy, cameras: tuple[str, ...], *, slots: int = 1, image_px: int = IMAGE_PX) -> Round:
    """Our runner, as an evaluation has it."""
    world = WorldConfig(cells=(CELL.name,), cameras=cameras, image_px=image_px)
    config = RolloutConfig(execution=ExecutionConfig(execute_steps=EXECUTE_STEPS))
    runner = RolloutRunner(world, config, policy, slots=slots)
    seeds = iter(range(1 << 30))

    def go_on() -> tuple[int, dict[str, float]]:
        """Until an episode is over: only then it is known where its time went."""
        finished: list[Finished] = []
        while not finished:
            while runner.free:
                runner.add(RolloutItem(cell=CELL, seed=next(seeds)))
            finished = runner.advance()
        if broken := [one.result.detail for one in finished if one.result.error]:
            raise RuntimeError(broken[0])
        timings = [one.timing for one in finished]
        kinds = {kind: sum(getattr(one, f"{kind}_s") for one in timings) for kind in ("physics", "render", "wait")}
        return sum(one.result.steps for one in finished), kinds

    return go_on


CASES: dict[str, Callable[[], Round]] = {
    "stock": lambda: stock("official", every_step=True),
    "stock, drawn once a chunk": lambda: stock("official", every_step=False),
    "stock, light geometry": lambda: stock("lite", every_step=True),
    "ours": lambda: ours(Swaying(sees=True), ("front",)),
    "ours, two cameras": lambda: ours(Swaying(sees=True), ("front", "side")),
    "ours, nothing drawn": lambda: ours(Swaying(sees=False), ("front",)),
}
"""The first and the last three differ in nothing but what their names say; one camera each but where two are named."""


@cache
def prepared(case: str) -> Round:
    """A case, warm."""
    go_on = CASES[case]()
    go_on()
    return go_on


@cache
def with_policy(folder: str, slots: int) -> Round:
    """Ours with a checkpoint in the same process, warm."""
    from blm.model.checkpoint_files import read_folder
    from blm.pipelines.evaluate import EvaluateConfig
    from blm.pipelines.evaluation.maniskill import acting_here
    from blm.pipelines.evaluation.references import OtherPolicy
    from blm.pipelines.workspace import ResourceConfig

    contract = read_folder(Path(folder))
    policy = acting_here(OtherPolicy(name="checkpoint", policy=folder), EvaluateConfig(), ResourceConfig())
    go_on = ours(policy, tuple(contract["cameras"]), slots=slots, image_px=contract["image_px"])
    go_on()
    return go_on


def measure(go_on: Round, seconds: float) -> dict[str, Any]:
    """Rounds for that long."""
    steps, kinds = 0, {"physics": 0.0, "render": 0.0, "wait": 0.0}
    began_s = time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        more, spent = go_on()
        steps += more
        for kind, spent_s in spent.items():
            kinds[kind] += spent_s
    return {"steps": steps, "wall_s": time.perf_counter() - began_s, "seconds": kinds}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a request asks to be measured."""
    go_on = with_policy(request["policy"], request["slots"]) if "policy" in request else prepared(request["case"])
    return measure(go_on, request["seconds"])


def main() -> None:
    """Answers requests until standard input ends."""
    torch.set_num_threads(1)
    answer_requests(answer)


if __name__ == "__main__":
    main()
