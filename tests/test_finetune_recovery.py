"""Stage I on Ray: a killed worker is replaced, after a killed driver the next call goes on, with the same losses."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_stage1 import learned, loop_config, run
from small_workers import on_workers

from blm.pipelines import workers
from blm.pipelines.finetune import checkpoints, loop
from blm.pipelines.workspace import ResourceConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DIRECTORY = Path(__file__).parent
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from small_stage1 import CONFIG
from dataclasses import replace
from blm.actors.sim.world import WorldConfig
from blm.cluster.ray_runtime import connect, disconnect
from blm.pipelines.stage1 import stage1
from blm.pipelines.tracking import Tracker
from blm.pipelines.workspace import ResourceConfig, StageContext
connect(num_cpus=2, object_store_gb=0.5)
context = StageContext(
    out=Path({out!r}), inputs={{"corpora": Path({corpora!r})}}, world=WorldConfig(cameras=("front",)), seed=0,
    tracker=Tracker(), resources=ResourceConfig(),
)
print(stage1(replace(CONFIG, **{options!r}), context))
disconnect()
"""


def options(mllm: Path) -> dict[str, Any]:
    return {"backbone": str(mllm), "steps": 75}


@pytest.fixture(scope="module")
def undisturbed(tiny_mllm, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Folder of a run of two workers that nothing happened to, and its configuration."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = loop_config(tiny_mllm, folder, **options(tiny_mllm))
    on_workers(run, 2, config)
    return folder, config


def wait_for_step(folder: Path, step: int) -> None:
    """Until there is a checkpoint of `step` or later."""
    for _ in range(6000):
        newest = checkpoints.latest(folder)
        if newest is not None and int(newest.name) >= step:
            return
        time.sleep(0.02)
    raise TimeoutError(f"no checkpoint of step {step} in {folder}")


def test_a_killed_worker_is_replaced_and_the_losses_go_on_bitwise(ray_cluster, undisturbed, tmp_path):
    _, config = undisturbed
    killed: list[int] = []

    def kill() -> None:
        wait_for_step(tmp_path / "train", 25)
        for process in psutil.process_iter(["pid", "cmdline"]):
            if "ray::RayTrainWorker" in " ".join(process.info["cmdline"] or ()):
                process.kill()
                killed.append(process.info["pid"])
                return

    killer = threading.Thread(target=kill)
    killer.start()
    workers.fit(loop.train, config | {"out": str(tmp_path)}, tmp_path, ResourceConfig())
    killer.join()
    assert killed
    assert learned(tmp_path) == learned(Path(config["out"]))


def test_after_a_killed_driver_the_next_call_goes_on_bitwise(undisturbed, tiny_mllm, tmp_path):
    folder, config = undisturbed
    out = tmp_path / "stage1-00000000"
    out.mkdir()
    script = DRIVER.format(
        tests=str(DIRECTORY), out=str(out), corpora=str(folder / "corpora"), options=options(tiny_mllm)
    )
    command = [sys.executable, "-c", script]
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        wait_for_step(out / "train", 20)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert not (out / "metrics.json").exists(), "training finished before it could be killed"
    again = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "[stage1] going on from step" in again.stdout + again.stderr
    assert learned(out) == learned(Path(config["out"]))
    assert json.loads((out / "metrics.json").read_text())["curve"][-1]["step"] == 75
