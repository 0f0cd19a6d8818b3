"""Ctrl-C and SIGTERM in the midst of a run: one line, exit code 130, whatever Ray does with signals."""

import signal
from pathlib import Path

import pytest
from small_pipeline import prepare, start


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    return prepare(tmp_path, empty_store)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_exits_130(folder: Path, sign: signal.Signals) -> None:
    running = start(folder, "--until", "count", "--to", "100", "--pause-s", "0.2")
    assert running.stdout is not None
    for line in running.stdout:
        if "[count] 2 of" in line:
            break
    running.send_signal(sign)
    _, stderr = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "interrupted; what is finished is kept" in stderr
    assert "Traceback" not in stderr


TRAINING = """
VERSION = 1
def loop(config):
    import time
    for i in range(600):
        print(f"[square] step {i}", flush=True)
        time.sleep(0.1)
def square(config, context):
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # TorchTrainer without PyTorch
    run = RunConfig(name="r", storage_path=str(context.out))
    DataParallelTrainer(loop, scaling_config=ScalingConfig(num_workers=1), run_config=run).fit()
    return {}
"""

WAITING = """
VERSION = 1
def loop():
    import time
    for i in range(600):
        print(f"[square] step {i}", flush=True)
        time.sleep(0.1)
def square(config, context):
    import ray
    ray.get(ray.remote(loop).remote())
    return {}
"""


@pytest.mark.ray
@pytest.mark.parametrize(
    ("source", "sign"), [(TRAINING, signal.SIGINT), (WAITING, signal.SIGTERM)], ids=["train-SIGINT", "task-SIGTERM"]
)
def test_handlers_that_ray_installs_do_not_take_an_interrupt_away(
    folder: Path, source: str, sign: signal.Signals
) -> None:
    (folder / "square_stage.py").write_text(source)
    running = start(folder)
    assert running.stdout is not None
    for line in running.stdout:
        if "[square] step 3" in line:
            break
    running.send_signal(sign)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == 130, stderr
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
