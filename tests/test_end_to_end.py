"""The whole pipeline through the real command line, at its smallest: killed in Stage II, resumed, skipped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.sim, pytest.mark.ray, pytest.mark.slow]

OPTIONS = [
    "resources.train_workers=1",  # a worker takes ten seconds of a core before it does anything
    "resources.actors=1",
    "world.cells=[panda/PushCube, panda/PickCube]",
    "collect.episodes_per_cell=20",
    "corpora.scenes=40",
    "corpora.test_scenes=10",
    "corpora.scenes_per_file=20",
    "corpora.language_copies=1",
    "stage1.vision_steps=5",
    "stage1.vision_batch=8",
    "stage1.steps=10",
    "stage1.batch=8",
    "stage1.eval_rows=20",
    "intents.gate=warn",
    "stage2.steps=110",
    "stage2.batch=16",
    "stage2.checkpoint_every_s=0",
    "stage2.validate_every=110",
    "evaluate.episodes_per_cell=2",
    "evaluate.random_episodes_per_cell=2",
    "evaluate.max_steps=24",
    "evaluate.videos_per_cell=1",
    "evaluate.video_px=64",
    "evaluate.digital.questions=12",
    "evaluate.digital.max_new_tokens=8",
]
TIMEOUT_S = 600


def command(root: Path) -> list[str]:
    options = [argument for option in OPTIONS for argument in ("--set", option)]
    return [str(Path(sys.executable).with_name("blm")), "run", "--preset", "tiny", "--root", str(root), *options]


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory, empty_store) -> tuple[Path, str]:
    """(run folder, what the second call printed) of a run that was killed in the middle of Stage II."""
    root = tmp_path_factory.mktemp("runs")
    (root / "tiny").mkdir()
    shutil.copy(empty_store, root / "tiny/mlflow.db")
    log = root / "first.log"
    with log.open("w") as file:
        process = subprocess.Popen(command(root), stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + TIMEOUT_S
        while not list(root.glob("tiny/stage2-*/train/*/checkpoint.pt")):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not list(root.glob("tiny/stage2-*/manifest.json")), "stage2 finished before it could be killed"
    resumed = subprocess.run(command(root), capture_output=True, text=True, timeout=TIMEOUT_S)
    assert resumed.returncode == 0, resumed.stdout[-3000:] + resumed.stderr[-3000:]
    return root / "tiny", resumed.stdout


def test_a_killed_stage2_goes_on_where_it_was(killed_and_resumed):
    run, output = killed_and_resumed
    assert "[stage2] going on from step" in output
    metrics = json.loads(next(run.glob("stage2-*/metrics.json")).read_text())
    assert [point["step"] for point in metrics["curve"]] == [50, 100, 110]


def test_every_stage_left_what_the_next_one_and_a_person_need(killed_and_resumed):
    run, output = killed_and_resumed
    for stage in ("collect", "render", "corpora", "stage1", "intents", "stage2", "baseline", "evaluate", "report"):
        assert len(list(run.glob(f"{stage}-*/manifest.json"))) == 1
    probe = json.loads(next(run.glob("intents-*/probe.json")).read_text())
    assert {cell["cell"] for cell in probe["cells"]} == {"panda/PushCube", "panda/PickCube"}
    summary = json.loads(next(run.glob("evaluate-*/summary.json")).read_text())
    assert {(cell["cell"], cell["policy"]) for cell in summary["cells"]} >= {
        (f"panda/{task}", policy) for task in ("PushCube", "PickCube") for policy in ("blm", "random")
    }
    page = next(run.glob("report-*/report.html")).read_text()
    assert "panda" in page
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "report.html" in output


def test_the_exported_model_talks_and_acts(killed_and_resumed):
    from transformers import AutoModelForImageTextToText

    from blm.model.predictor import BlmPolicy

    folder = next(killed_and_resumed[0].glob("stage2-*/model"))
    assert AutoModelForImageTextToText.from_pretrained(folder).config.model_type == "qwen2_5_vl"
    assert BlmPolicy.load(folder).contract.cameras == ("front", "side")


def test_a_second_run_skips_everything_in_seconds(killed_and_resumed):
    started = time.monotonic()
    again = subprocess.run(command(killed_and_resumed[0].parent), capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - started < 30
    assert again.stdout.count("finished") >= 8 or again.stdout.count("skip") >= 8, again.stdout


def test_a_damaged_result_is_refused_in_one_line(killed_and_resumed):
    run = killed_and_resumed[0]
    victim = next(run.glob("collect-*/episodes/panda-PushCube/*.parquet"))
    content = victim.read_bytes()
    try:
        victim.write_bytes(content[:100])
        again = subprocess.run(command(run.parent), capture_output=True, text=True, timeout=120)
    finally:
        victim.write_bytes(content)
    assert again.returncode == 2
    assert victim.name in again.stderr
    assert len(again.stderr.strip().splitlines()) == 1, again.stderr
