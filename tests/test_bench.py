"""`blm bench`: it measures what it says and ends in one JSON object. How fast anything is, no test asks."""

import json
from pathlib import Path

import pytest

from blm.pipelines.benchmarks.collect import bench_collect
from blm.pipelines.cli import main

PEER_PYTHON = Path(__file__).parents[1] / ".venv-maniskill/bin/python"


@pytest.mark.sim
def test_render_ends_in_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "render", "--episodes", "2", "--rounds", "1"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["bench"] == "render"
    assert {"lite, as used", "official, stride 1"} <= set(result["results"])
    rows = result["results"].values()
    assert all(row["frames_per_s"] > 0 for row in rows)
    used, every = (result["results"][f"lite, {stride}"] for stride in ("as used", "stride 1"))
    assert result["ratio_stride"] == pytest.approx(used["episodes_per_minute"] / every["episodes_per_minute"], rel=0.02)


def test_without_the_peer_there_is_one_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "collect", "--peer-python", str(tmp_path / "python")]) == 2
    assert "make bench-peers" in capsys.readouterr().err


@pytest.mark.skipif(
    not PEER_PYTHON.exists(), reason="no environment of ManiSkill's planner; `make bench-peers` makes it"
)
def test_both_sides_answer_the_same_requests() -> None:
    result = bench_collect(episodes=1, rounds=1, pictures=1, peer_python=PEER_PYTHON)
    for kind in ("states", "pictures"):
        for row in result["results"][kind].values():
            assert row["ours"]["tried"] == row["theirs"]["tried"] == 1
    assert result["ratio"] > 0
