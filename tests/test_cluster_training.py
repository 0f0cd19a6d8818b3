"""Nodes that go and come while work goes on, on a real cluster of several raylets (`cluster_nodes.py`)."""

import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster_work import STEPS, expected

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PROGRAM = Path(__file__).with_name("cluster_nodes.py")
TIMEOUT_S = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program has its work."""
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    """What the program saw; one cluster for all tests, since starting it takes longer than most of them."""
    done = subprocess.run([sys.executable, PROGRAM, folder], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_training_goes_on_without_a_node_and_grows_back_when_one_returns(found: dict[str, Any], folder: Path) -> None:
    training = found["training"]
    assert training["ended"]
    assert training["outcome"] == {"value": None}
    assert training["in_time"], "a checkpoint was written between the notice and the end of the node"
    assert [world for world, _ in groupby(training["worlds"])] == [2, 1, 2]
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert saved["step"] == STEPS
    for name, tensor in expected().items():
        torch.testing.assert_close(saved["state"]["model"][name], tensor, atol=1e-5, rtol=1e-4)


def test_models_beside_one_another_are_finished_on_the_node_that_is_left(found: dict[str, Any]) -> None:
    assert found["models"] == {"outcome": {"value": None}, "done": [True, True, True]}


def test_no_item_is_lost_or_done_twice_when_a_node_is_gone_for_good(found: dict[str, Any]) -> None:
    assert found["items"] == {"outcome": {}, "ended": True, "results": [2 * number for number in range(10)]}
    assert found["pool"] == {"results": [2 * number for number in range(8)]}


def test_one_line_says_what_the_cluster_has(found: dict[str, Any]) -> None:
    assert found["line"] == (
        "3 nodes, 2 CPUs, 0 GPUs; 2 gpu-train; no cpu-sim and no gpu-serve node: that work goes wherever there is room"
    )
