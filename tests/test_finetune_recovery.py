"""Stage I on Ray: a killed worker is replaced, after a killed driver the next call goes on, with the same losses."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_stage1 import CONFIG, learned, loop_config, run
from small_workers import on_workers

from blm.actors.sim.world import WorldConfig
from blm.pipelines.finetune import checkpoints
from blm.pipelines.stage1 import stage1
from blm.pipelines.tracking import Tracker
from blm.pipelines.workspace import ResourceConfig, StageContext

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DIRECTORY = Path(__file__).parent
STEPS = 40
TIMEOUT_S = 300
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
connect(num_cpus=2, object_store_gb=0.2)
context = StageContext(
    out=Path({out!r}), inputs={{"corpora": Path({corpora!r})}}, world=WorldConfig(cameras=("front",)), seed=0,
    tracker=Tracker(), resources=ResourceConfig(),
)
print(stage1(replace(CONFIG, **{options!r}), context))
disconnect()
"""


@pytest.fixture(scope="module")
def undisturbed(tiny_mllm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder of a run of two workers that nothing happened to, and its configuration."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = loop_config(tiny_mllm, folder, backbone=str(tiny_mllm), steps=STEPS)
    on_workers(run, 2, config | {"stage": replace(config["stage"], checkpoint_every_s=1e9)})
    return folder, config


def wait_for_step(folder: Path, step: int, driver: subprocess.Popen[bytes], log: Path) -> None:
    """Until there is a checkpoint of `step` or later, while the driver lives."""
    deadline = time.monotonic() + TIMEOUT_S
    while (newest := checkpoints.latest(folder)) is None or int(newest.name) < step:
        assert driver.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.02)


def kill_a_worker(driver: subprocess.Popen[bytes]) -> None:
    """SIGKILL one of the training workers that belong to a driver."""
    children = psutil.Process(driver.pid).children(recursive=True)
    worker = next(child for child in children if "ray::RayTrainWorker" in " ".join(child.cmdline()))
    worker.kill()


def test_after_a_killed_worker_and_a_killed_driver_the_losses_go_on_bitwise(
    undisturbed: tuple[Path, dict[str, Any]],
    tiny_mllm: Path,
    tmp_path: Path,
    ray_cluster: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, config = undisturbed
    out, log = tmp_path / "stage1-00000000", tmp_path / "log"
    out.mkdir()
    shutil.copytree(folder / "encoded", out / "encoded")  # as an earlier attempt leaves it
    options: dict[str, Any] = {"backbone": str(tiny_mllm), "steps": STEPS}
    corpora = str(folder / "corpora")
    script = DRIVER.format(tests=str(DIRECTORY), out=str(out), corpora=corpora, options=options)
    with log.open("w") as output:
        driver = subprocess.Popen(
            [sys.executable, "-c", script], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        wait_for_step(out / "train", 5, driver, log)
        kill_a_worker(driver)
        wait_for_step(out / "train", 20, driver, log)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert not (out / "metrics.json").exists(), "training finished before it could be killed"
    assert "[stage1] going on from step" in log.read_text()
    context = StageContext(  # the next call is made here, in a process and a Ray that have seen nothing of it
        out=out,
        inputs={"corpora": folder / "corpora"},
        world=WorldConfig(cameras=("front",)),
        seed=0,
        tracker=Tracker(),
        resources=ResourceConfig(),
    )
    capfd.readouterr()
    stage1(replace(CONFIG, **options), context)
    assert "[stage1] going on from step" in capfd.readouterr().out
    assert learned(out) == learned(Path(config["out"]))
    assert learned(out)[-1][0] == STEPS
