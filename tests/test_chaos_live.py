"""Processes of a cluster of three raylets are killed while a pipeline runs on it: nothing is lost, nothing doubled."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_chaos
from test_end_to_end import OPTIONS

KILLS = int(os.environ.get("BLM_KILLS", "6"))
TIMEOUT_S = 1500

pytestmark = [pytest.mark.ray]


def call(command: list[str], log: Path) -> tuple[dict[str, Any], str]:
    """The result in a command's last line, and everything that it printed."""
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=TIMEOUT_S, check=False)
    said = log.read_text()
    assert done.returncode == 0, said[-3000:]
    return json.loads(said.splitlines()[-1]), said


def require_nothing_lost(result: dict[str, Any]) -> None:
    """The run came out as the undisturbed one."""
    assert result["equal"], result["files"]
    assert (result["lost"], result["doubled"]) == (0, 0), result["pieces"]
    assert result["kills"] >= result["planned"] / 2, result["stages"]  # a fast run may end before the last of them


def test_a_run_whose_processes_are_killed_ends_with_the_same_files(
    tmp_path: Path, empty_store: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path)}")
    undisturbed = small_chaos.run(str(tmp_path / "undisturbed"))
    trial = [str(tmp_path / "trial"), str(KILLS), "3", str(undisturbed)]
    command = [sys.executable, small_chaos.__file__, "trial", *trial]
    result, said = call(command, tmp_path / "log")
    require_nothing_lost(result)
    rollouts = result["pieces"][0]
    assert rollouts["found"] == 3 * small_chaos.EPISODES_A_CELL
    assert "worker" in result["kinds"]
    assert result["driver_starts"] == 1 + result["kinds"].get("driver", 0) + result["driver_gave_up"]
    assert "killed: " in said


@pytest.mark.sim
@pytest.mark.long
def test_the_whole_pipeline_ends_with_the_same_results(tmp_path: Path) -> None:
    usual = [option for option in OPTIONS if not option.startswith("resources.") and "checkpoint_every_s" not in option]
    options = [word for option in usual for word in ("--set", option)]
    command = [
        *(str(Path(sys.executable).with_name("blm")), "chaos", "--preset", "tiny", "--kills", str(2 * KILLS)),
        *("--seed", "1", "--every", "3", "--out", str(tmp_path / "trial"), *options),
    ]
    result, _ = call(command, tmp_path / "log")
    require_nothing_lost(result)
    assert {row["stage"] for row in result["stages"] if row["kills"]} >= {"collect", "stage1", "stage2", "evaluate"}
