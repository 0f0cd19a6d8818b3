"""Tracking: one MLflow run a stage in a SQLite store, resumed under its id; stores that cannot be reached."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from blm.model.errors import UserError
from blm.pipelines.tracking import Tracker, flatten, open_tracker


@pytest.fixture
def run_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "tiny"


def client_of(run_root: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{run_root / 'mlflow.db'}")


def test_a_resumed_stage_goes_on_in_its_mlflow_run(run_root: Path) -> None:
    out = run_root / "stage1-00000000"
    out.mkdir(parents=True)
    first = open_tracker(run_root=run_root, stage="stage1", out=out, tags={"blm.stage": "stage1"})
    first.log_params({"seed": 0, "stage1": {"steps": 5}})
    for step in range(450):
        first.log_metrics({"loss": 1 / (step + 1), "note": "no number"}, step=step)
    first.close("KILLED")

    again = open_tracker(run_root=run_root, stage="stage1", out=out, tags={})
    again.log_params({"seed": 0, "stage1": {"steps": 7}, "added": 1})
    again.log_metrics({"loss": 0.0}, step=450)
    again.log_artifact(out / "mlflow_run_id")
    again.close("FINISHED")

    client = client_of(run_root)
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert [run.info.run_name for run in runs] == ["stage1"]
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.params == {"seed": "0", "stage1.steps": "5", "added": "1"}
    assert runs[0].data.tags["blm.stage"] == "stage1"
    history = client.get_metric_history(runs[0].info.run_id, "loss")
    assert [point.step for point in history] == list(range(451))
    assert list((run_root / "mlflow_artifacts").rglob("mlflow_run_id"))


def test_a_run_the_store_does_not_know_is_begun_anew(run_root: Path) -> None:
    out = run_root / "collect-00000000"
    out.mkdir(parents=True)
    (out / "mlflow_run_id").write_text("0123456789abcdef0123456789abcdef\n")
    open_tracker(run_root=run_root, stage="collect", out=out, tags={}).close("FINISHED")
    run_id = (out / "mlflow_run_id").read_text().strip()
    assert client_of(run_root).get_run(run_id).info.status == "FINISHED"


def test_the_users_store_is_respected(run_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    open_tracker(run_root=run_root, stage="collect", out=run_root / "collect-0", tags={}).close("FINISHED")
    assert (tmp_path / "other.db").exists()
    assert not (run_root / "mlflow.db").exists()


def test_a_store_that_cannot_be_reached_is_said_before_the_stage_begins(
    run_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"the MLflow store http://127\.0\.0\.1:9 cannot be used .*MLFLOW_TRACKING_URI"):
        open_tracker(run_root=run_root, stage="collect", out=run_root / "collect-0", tags={})


def test_a_store_that_disappears_ends_tracking_and_not_the_stage(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = open_tracker(run_root=run_root, stage="collect", out=run_root / "collect-0", tags={})
    client_of(run_root).delete_run((run_root / "collect-0" / "mlflow_run_id").read_text().strip())
    for step in range(500):
        tracker.log_metrics({"loss": 1.0}, step=step)
    tracker.close("FINISHED")
    assert capsys.readouterr().out.count("tracking ends here") == 1


def test_a_tracker_without_a_store_keeps_nothing() -> None:
    tracker = Tracker()
    tracker.log_params({"a": 1})
    tracker.log_metrics({"b": 2.0}, step=1)
    tracker.close("FINISHED")


def test_nested_names_are_dotted() -> None:
    assert flatten({"a": {"b": 1, "c": {"d:e": 2}}, "f": 3}) == {"a.b": 1, "a.c.d_e": 2, "f": 3}


def test_a_driver_that_is_killed_while_it_makes_the_store_leaves_none(run_root: Path) -> None:
    out = run_root / "collect-00000000"
    script = (
        "import sys; from pathlib import Path; from blm.pipelines.tracking import open_tracker\n"
        "run = Path(sys.argv[1]); open_tracker(run_root=run, stage='collect', out=run / 'collect-0', tags={})"
    )
    driver = subprocess.Popen([sys.executable, "-c", script, str(run_root)], stderr=subprocess.DEVNULL)
    while not any(path.stat().st_size for path in run_root.glob(".tmp-*mlflow.db")):  # in the midst of its tables
        assert driver.poll() is None
        time.sleep(0.005)
    driver.kill()
    driver.wait()
    assert not (run_root / "mlflow.db").exists()
    open_tracker(run_root=run_root, stage="collect", out=out, tags={}).close("FINISHED")
    assert client_of(run_root).get_experiment_by_name("tiny") is not None
    assert not list(run_root.glob(".tmp-*"))
