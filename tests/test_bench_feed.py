"""`blm bench feed`: both sides have the same windows. How fast anything is, no test asks."""

import json
from pathlib import Path

import numpy as np
import pytest

from blm.pipelines.benchmarks.feed import write_demonstrations
from blm.pipelines.cli import main
from blm.pipelines.windows.dataset import RobotDataset

PEER_PYTHON = Path(__file__).parents[1] / ".venv-lerobot/bin/python"


def test_without_the_peer_there_is_one_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "feed", "--peer-python", str(tmp_path / "python")]) == 2
    assert "make lerobot-check" in capsys.readouterr().err


def test_the_demonstrations_it_makes_are_read_like_any_others(tmp_path: Path) -> None:
    write_demonstrations(tmp_path / "panda", 2, frames=5)
    dataset = RobotDataset.open(tmp_path / "panda")
    assert (dataset.n_frames, dataset.cameras, dataset.fps) == (10, ("front", "side"), 20)
    chunks, is_pad = dataset.chunks(dataset.episodes[1], 16)
    assert np.allclose(chunks[0, 0], dataset.states(dataset.episodes[1])[0] + 0.01)
    assert is_pad[0].sum() == 11
    assert len(np.unique(dataset.pictures(np.arange(10), ["front", "side"]).reshape(20, -1), axis=0)) == 20


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not PEER_PYTHON.exists(), reason="no environment of lerobot; `make lerobot-check` makes it")
def test_both_sides_have_the_same_windows_and_rates_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--windows", "128", "--episodes", "2", "--rounds", "1", "--peer-python", str(PEER_PYTHON)]
    assert main(["bench", "feed", *words]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["bench"] == "feed"
    assert min(result["windows_per_s"].values()) > 0
