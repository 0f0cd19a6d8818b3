"""Starting Ray, refusing what cannot work, and finding a person's mistake inside what Ray wraps round it."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blm.cluster.ray_runtime import cause_of, connect, connected, is_disk_full, is_up, log_folder
from blm.model.errors import UserError


def test_ray_client_addresses_are_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="Ray Client address, behind which Ray Train and Ray Data drivers do not work"):
        connect(num_cpus=1, address="ray://head:10001")


def test_errors_that_are_no_mistake_of_a_person_have_no_user_error_inside() -> None:
    assert cause_of(ValueError("x")) is None
    assert cause_of(RuntimeError("blm.model.errors.UserError is a class")) is None


def test_a_chained_user_error_is_found() -> None:
    try:
        try:
            raise UserError("inner")
        except UserError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError as outer:
        found = cause_of(outer)
    assert str(found) == "inner"


def test_a_full_disk_is_found_by_number_and_by_words() -> None:
    full = OSError(errno.ENOSPC, "Error writing bytes to file")
    wrapped = RuntimeError("task failed")
    wrapped.cause = full  # type: ignore[attr-defined]
    assert is_disk_full(full)
    assert is_disk_full(wrapped)
    assert is_disk_full(RuntimeError("(sqlite3.OperationalError) database or disk is full"))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))


def fail(_: Any = None) -> None:
    raise UserError("a.parquet is damaged; delete it")


def in_task() -> None:
    import ray

    ray.get(ray.remote(fail).remote())


def in_nested_task() -> None:
    import ray

    ray.get(ray.remote(in_task).remote())


def in_data() -> None:
    import ray

    ray.data.range(4).map_batches(fail).materialize()


def in_data_actor() -> None:
    import ray

    class Reader:
        def __init__(self) -> None:
            fail()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return batch

    ray.data.range(4).map_batches(Reader, compute=ray.data.ActorPoolStrategy(size=1)).materialize()


@pytest.mark.ray
@pytest.mark.parametrize("where", [in_task, in_nested_task, in_data, in_data_actor], ids=lambda f: f.__name__)
def test_a_user_error_is_found_inside_what_ray_raises(ray_cluster: None, where: Callable[[], None]) -> None:
    with pytest.raises(Exception) as error:
        where()
    assert str(cause_of(error.value)) == "a.parquet is damaged; delete it"


@pytest.mark.ray
def test_a_user_error_is_found_inside_what_ray_train_raises(ray_cluster: None, tmp_path: Path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # TorchTrainer without PyTorch

    trainer = DataParallelTrainer(
        fail,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name="r", storage_path=str(tmp_path)),
    )
    with pytest.raises(Exception) as error:
        trainer.fit()
    assert str(cause_of(error.value)) == "a.parquet is damaged; delete it"


@pytest.mark.ray
def test_connecting_twice_is_harmless_and_logs_have_a_place(ray_cluster: None) -> None:
    assert is_up()
    assert connect(num_cpus=7)["CPU"] == 2
    folder = log_folder()
    assert folder is not None
    assert folder.is_dir()


@pytest.mark.ray
def test_a_ray_that_was_up_stays_up_after_a_part_that_needs_one(ray_cluster: None) -> None:
    with connected(num_cpus=1):
        assert is_up()
    assert is_up()


def test_workers_show_progress_and_nothing_else(ray_cluster: None, capfd: pytest.CaptureFixture[str]) -> None:
    import time

    import ray

    def talk() -> None:
        print("[collect] 3 of 9 episodes", flush=True)
        print("a library's chatter", flush=True)

    ray.get(ray.remote(talk).remote())
    shown = ""
    deadline_s = time.monotonic() + 10
    while "[collect]" not in shown and time.monotonic() < deadline_s:
        time.sleep(0.1)
        shown += capfd.readouterr().out
    assert "[collect] 3 of 9 episodes\n" in shown
    assert "chatter" not in shown
