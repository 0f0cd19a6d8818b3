"""Experiment tracking: every stage is one MLflow run of the experiment that carries the run's name.

The default store is `<run folder>/mlflow.db` (SQLite, nothing to start); `MLFLOW_TRACKING_URI` names another. A stage
that is resumed goes on in its old MLflow run: the id is kept beside the stage's output. Metrics are sent in batches,
because a store answers one call in milliseconds and a training step takes no longer. Look at the default store with:

    mlflow ui --backend-store-uri sqlite:///runs/tiny/mlflow.db
"""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from blm.model.errors import UserError, first_line

if TYPE_CHECKING:  # mlflow takes a second to import: only a stage that runs pays for it
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

RUN_ID_FILE = "mlflow_run_id"
DATABASE, ARTIFACTS = "mlflow.db", "mlflow_artifacts"
"""The default store and its files, in the run folder."""
BATCH = 200  # metrics per request; MLflow's limit is 1000
PARAM_BATCH = 100  # MLflow's limit
FLUSH_S = 5.0

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """Parameters and metrics of one stage. `Tracker()` keeps nothing, for code and tests that need no store.

    A store that stops answering in the middle of a stage is reported once and then left alone: hours of training are
    worth more than their curve, which the stage also keeps in its own output.
    """

    def __init__(self, client: "MlflowClient | None" = None, run_id: str = "") -> None:
        self._client = client
        self._run_id = run_id
        self._pending: list[Metric] = []
        self._last_flush_s = time.monotonic()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record parameters; nested mappings become dotted names. A name that has a value already keeps it."""
        if self._client is None:
            return
        from mlflow.entities import Param

        def send(client: "MlflowClient") -> None:
            known = client.get_run(self._run_id).data.params
            new = [Param(k, str(v)[:6000]) for k, v in flatten(params).items() if k not in known]
            for first in range(0, len(new), PARAM_BATCH):
                client.log_batch(self._run_id, params=new[first : first + PARAM_BATCH])

        self._try(send)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record the numbers among `metrics` (nested ones under dotted names) at a step; anything else is left out."""
        if self._client is None:
            return
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        numbers = {k: v for k, v in flatten(metrics).items() if isinstance(v, (bool, int, float))}
        self._pending += [Metric(k, float(v), now_ms, step or 0) for k, v in numbers.items()]
        if len(self._pending) >= BATCH or time.monotonic() - self._last_flush_s > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        waiting, self._pending = self._pending, []
        self._last_flush_s = time.monotonic()
        for first in range(0, len(waiting), BATCH):
            batch = waiting[first : first + BATCH]
            self._try(lambda client, batch=batch: client.log_batch(self._run_id, metrics=batch))

    def log_artifact(self, path: Path) -> None:
        """Copy a file to the run's artifacts."""
        self._try(lambda client: client.log_artifact(self._run_id, str(path)))

    def close(self, status: Status) -> None:
        """Send what waits and end the MLflow run."""
        self.flush()
        self._try(lambda client: client.set_terminated(self._run_id, status=status))
        self._client = None

    def _try(self, call: Any) -> None:
        """`call(client)`; a store that fails is reported once and not asked again."""
        if self._client is None:
            return
        from mlflow.exceptions import MlflowException

        try:
            call(self._client)
        except (MlflowException, OSError) as error:
            self._client = None
            print(f"[tracking] the MLflow store stopped answering, tracking ends here: {first_line(error)}", flush=True)


def open_tracker(*, run_root: Path, stage: str, out: Path, tags: Mapping[str, str]) -> Tracker:
    """The tracker of a stage, in the MLflow run that an earlier attempt in `out` began, or in a new one.

    Raises UserError if the store cannot be reached.
    """
    own = (run_root / DATABASE).resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{own}"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default of 7 waits two minutes to say no
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # table creation is no news
    try:
        if uri == f"sqlite:///{own}" and not own.exists():
            _make_store(own)
        client = MlflowClient(tracking_uri=uri)
        run_id = _resume_run(client, out / RUN_ID_FILE) or _create_run(client, uri, run_root, stage, tags)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"the MLflow store {uri} cannot be used ({first_line(error)}); start it, or unset "
            "MLFLOW_TRACKING_URI to keep the numbers in the run folder"
        ) from error
    out.mkdir(parents=True, exist_ok=True)
    (out / RUN_ID_FILE).write_text(run_id + "\n")
    return Tracker(client, run_id)


def _make_store(path: Path) -> None:
    """A new SQLite store. It gets its name when all its tables are there: a kill in their midst would leave one that no
    later call can open."""
    from mlflow.tracking import MlflowClient

    for leftover in path.parent.glob(f".tmp-*-{path.name}*"):
        leftover.unlink()
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{temporary}").get_experiment_by_name(path.parent.name)
    os.replace(temporary, path)


def _resume_run(client: "MlflowClient", id_file: Path) -> str | None:
    """Id of the MLflow run begun by an earlier attempt, set to running again; None if the store does not know it."""
    from mlflow.exceptions import MlflowException

    if not id_file.exists():
        return None
    run_id = id_file.read_text().strip()
    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None  # another store, or a deleted run
        raise
    return run_id


def _create_run(client: "MlflowClient", uri: str, run_root: Path, stage: str, tags: Mapping[str, str]) -> str:
    """A new MLflow run named after the stage in the experiment named after the run folder; returns its id."""
    experiment = client.get_experiment_by_name(run_root.name)
    if experiment is not None:
        experiment_id = experiment.experiment_id
    else:
        local = uri.startswith("sqlite:")
        artifacts = (run_root / ARTIFACTS).resolve().as_uri() if local else None
        experiment_id = client.create_experiment(run_root.name, artifact_location=artifacts)
    return client.create_run(experiment_id, run_name=stage, tags=dict(tags)).info.run_id


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted names: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}".replace(":", "_")  # MLflow refuses colons
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
