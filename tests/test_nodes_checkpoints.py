"""Training checkpoints and windows on nodes that share no files, without Ray: processes with disks of their own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from small_dataset import write_dataset
from small_toys import train, train_in_turn
from small_workers import on_workers

from blm.cluster import depot
from blm.pipelines.policy_training import checkpoints as policy_checkpoints
from blm.pipelines.policy_training import course
from blm.pipelines.policy_training.weights import Weights
from blm.pipelines.windows.store import open_windows, prepare_windows

STAGE = "run/stage-00000000"


@contextmanager
def disk(told: dict[str, str], name: str) -> Iterator[None]:
    """Be a process of the node with this disk, for the time of the body."""
    mine = told | {"BLM_SCRATCH": str(Path(told["BLM_HOME"]).parent.parent / name)}
    before = {key: os.environ.get(key) for key in mine}
    os.environ |= mine
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a driver, whose disk is `driver`, tells its workers."""
    for name in ("BLM_STORE", "BLM_HOME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("BLM_SCRATCH", str(tmp_path / "driver"))
    depot.enter(f"file://{tmp_path}/store")
    said = depot.environment()
    for name in (*said, "BLM_SCRATCH"):  # workers that are started now are kept for other tests
        monkeypatch.delenv(name)
    return said


def train_on(told: dict[str, str], names: list[str], out: str, parallel: Any, until: int) -> None:
    """In a worker: train the toy on the disk of this rank."""
    with disk(told, names[dist.get_rank()]):
        train(out, parallel, until, str(depot.place(Path(told["BLM_HOME"]) / STAGE / "train")))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_training_goes_on_from_the_store_on_other_nodes(told: dict[str, str], tmp_path: Path, parallel: str) -> None:
    out = str(tmp_path / "w.pt")
    on_workers(train_on, 2, told, ["a", "b"], out, parallel, 3)
    stored = tmp_path / "store" / STAGE / "train"
    assert len(list(stored.glob("*/*.distcp"))) == 2
    on_workers(train_on, 2, told, ["c", "b"], out, parallel, 6)
    assert [path.name.partition("-")[0] for path in stored.iterdir()] == ["000006"]
    on_workers(train_in_turn, 2, [(str(tmp_path / "whole.pt"), parallel, 6, str(tmp_path / "plain"))])
    expected, resumed = weights(tmp_path / "whole.pt"), weights(tmp_path / "w.pt")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    on_workers(train_on, 1, told, ["d"], out, "ddp", 8)  # other nodes, fewer of them, another sharding
    on_workers(train, 2, str(tmp_path / "whole.pt"), parallel, 8, str(tmp_path / "plain"))
    for name, tensor in weights(tmp_path / "whole.pt").items():
        torch.testing.assert_close(weights(tmp_path / "w.pt")[name], tensor, atol=1e-6, rtol=1e-5)


def test_what_a_killed_attempt_left_on_a_disk_or_in_the_store_is_not_gone_on_from(
    told: dict[str, str], tmp_path: Path
) -> None:
    out = str(tmp_path / "w.pt")
    on_workers(train_on, 2, told, ["a", "b"], out, "ddp", 3)
    key = Path(told["BLM_HOME"]).name
    unsent = tmp_path / "a" / key / STAGE / "train/000009-dead00"  # rank 0 died before it could send the last file
    unsent.mkdir()
    (unsent / "progress.json").write_text("{}")
    unfinished = tmp_path / "store" / STAGE / "train/000009-dead00"
    unfinished.mkdir()
    (unfinished / "__0_0.distcp").write_text("part")
    on_workers(train_on, 2, told, ["a", "b"], out, "ddp", 6)
    assert not unfinished.exists()
    assert not unsent.exists()
    on_workers(train_in_turn, 2, [(str(tmp_path / "whole.pt"), "ddp", 6, str(tmp_path / "plain"))])
    expected, resumed = weights(tmp_path / "whole.pt"), weights(tmp_path / "w.pt")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def learn_on(told: dict[str, str], names: list[str], steps: int, expected: int) -> None:
    """In a worker: go on from the policy's checkpoint, which must be of step `expected`, and save."""
    with disk(told, names[dist.get_rank()]):
        folder = depot.place(Path(told["BLM_HOME"]) / STAGE / "train/all")
        torch.manual_seed(0)
        held = Weights(torch.nn.Linear(4, 4), learning_rate=0.1, weight_decay=0.0, steps=20, warmup=1)
        progress = policy_checkpoints.load(folder, held) or {"step": 0}
        assert progress["step"] == expected
        for step in range(expected, steps):
            rows = torch.randn(2, 4, generator=torch.Generator().manual_seed(step))
            held.descend(held.policy(rows).square().sum(), clip_norm=1.0)
        if dist.get_rank() == 0:
            saver = policy_checkpoints.Saver(folder)
            saver.save(held, {"step": steps})
            saver.wait()
        dist.barrier()
        whole = held.policy.weight.detach().clone()
        dist.broadcast(whole, src=0)
        assert torch.equal(whole, held.policy.weight), "workers hold different policies"


def test_all_workers_go_on_from_the_newest_checkpoint_of_the_policy(told: dict[str, str], tmp_path: Path) -> None:
    """Files of the same size on disks that had the first worker before are not taken for it."""
    on_workers(learn_on, 2, told, ["a", "b"], 3, 0)
    on_workers(learn_on, 2, told, ["b", "a"], 5, 3)
    on_workers(learn_on, 2, told, ["a", "b"], 7, 5)
    on_workers(learn_on, 1, told, ["c"], 8, 7)
    stored = tmp_path / "store" / STAGE / "train/all/checkpoints"
    assert [path.name.partition("-")[0] for path in stored.iterdir()] == ["000008"]


class NotFinishedError(Exception):
    """Training has begun."""


def refuse_to_train(config: dict[str, Any], device: torch.device) -> Any:
    raise NotFinishedError


def follow_on(told: dict[str, str], names: list[str], finished: bool) -> None:
    """In a worker: a training that is finished, or is not, by the store alone."""
    with disk(told, names[dist.get_rank()]):
        config = {"folder": str(Path(told["BLM_HOME"]) / STAGE / "train/all")}
        try:
            course.follow(config, torch.device("cpu"), refuse_to_train)
        except NotFinishedError:
            assert not finished
        else:
            assert finished


def test_a_training_is_finished_when_the_store_says_so(told: dict[str, str], tmp_path: Path) -> None:
    unsent = tmp_path / "a" / Path(told["BLM_HOME"]).name / STAGE / "train/all/metrics.json"
    unsent.parent.mkdir(parents=True)
    unsent.write_text("{}")
    on_workers(follow_on, 2, told, ["a", "b"], False)
    own = Path(told["BLM_HOME"]) / STAGE / "train/all/metrics.json"
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    with disk(told, "driver"):
        depot.keep(own)
    on_workers(follow_on, 2, told, ["a", "b"], True)


def test_windows_are_the_same_wherever_they_were_made(told: dict[str, str], tmp_path: Path) -> None:
    datasets = {"panda": write_dataset(tmp_path / "panda", episodes=6)}
    prepare_windows(datasets, tmp_path / "plain", chunk=4, workers=0)
    out = Path(told["BLM_HOME"]) / STAGE / "windows"
    with disk(told, "driver"):
        prepare_windows(datasets, out, chunk=4, workers=0)
    with disk(told, "trainer"):
        brought = depot.here(out)
        assert brought != out
        (there,) = open_windows(brought, datasets)
    (expected,) = open_windows(tmp_path / "plain", datasets)
    for name in ("state", "chunk", "is_pad", "future", "usable"):
        assert np.array_equal(getattr(there, name), getattr(expected, name))
    names = [{path.name for path in (one / "panda").iterdir()} for one in (brought, out, tmp_path / "plain")]
    assert names[0] == names[1] == names[2]
