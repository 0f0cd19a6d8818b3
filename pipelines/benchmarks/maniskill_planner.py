"""ManiSkill's own motion-planning examples as a worker: the other side of `blm bench collect`.

Stands alone, since it runs in an environment of its own (`cluster/setup/maniskill_env.sh`): mplib 0.1.1, which those
examples plan with, does not run with NumPy 2. What it times is what their `run.py` does for one demonstration: solve,
and write the trajectory with ManiSkill's recorder.

One JSON object a line on standard input, `{"task", "seeds", "image_px"}`; one a line on standard output.
image_px 0: states alone; else the task's own camera in that size, drawn at every step as `obs_mode="rgb"` does.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import mani_skill.envs  # noqa: F401  registers the tasks
import torch
from mani_skill.examples.motionplanning.panda.run import MP_SOLUTIONS
from mani_skill.utils.wrappers.record import RecordEpisode

ANSWERS = os.dup(1)
"""Where answers go. Planners print to standard output, which therefore leads to standard error."""


def make(task: str, image_px: int, folder: str) -> RecordEpisode:
    """Their environment as their `run.py` makes it, without video."""
    sensors = {"width": image_px, "height": image_px} if image_px else {}
    env = gym.make(
        f"{task}-v1",
        obs_mode="rgb" if image_px else "none",
        control_mode="pd_joint_pos",
        render_mode="rgb_array",
        sensor_configs=sensors,
        sim_backend="cpu",
    )
    return RecordEpisode(
        env,
        output_dir=folder,
        trajectory_name="bench",
        save_video=False,
        record_reward=False,
        save_on_reset=False,
        source_type="motionplanning",
        source_desc="motion-planning examples of ManiSkill",
    )


def solve(env: RecordEpisode, task: str, seeds: list[int]) -> dict[str, float | int | list[int]]:
    """Demonstrations of these seeds; those that succeed are kept."""
    steps: list[int] = []
    began_s = time.perf_counter()
    for seed in seeds:
        try:
            result = MP_SOLUTIONS[f"{task}-v1"](env, seed=seed, debug=False, vis=False)
        except Exception as error:  # their run.py counts whatever a solution raises as a failed plan
            print(f"{task} seed {seed}: {error}", file=sys.stderr)
            result = -1
        kept = result != -1 and bool(result[-1]["success"].item())
        env.flush_trajectory(save=kept)
        if kept:
            steps.append(int(result[-1]["elapsed_steps"].item()))
    return {"wall_s": time.perf_counter() - began_s, "kept": len(steps), "first_plan": len(steps), "steps": steps}


def main() -> None:
    """Answers requests until standard input ends."""
    os.dup2(2, 1)
    torch.set_num_threads(1)
    envs: dict[tuple[str, int], RecordEpisode] = {}
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            request = json.loads(line)
            key = (request["task"], request["image_px"])
            if key not in envs:
                envs[key] = make(*key, str(Path(folder) / f"{key[0]}-{key[1]}"))
            answer = solve(envs[key], request["task"], request["seeds"])
            os.write(ANSWERS, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    main()
