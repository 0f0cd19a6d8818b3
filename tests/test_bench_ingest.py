"""`blm bench ingest`: both sides do the same work on the same corpus. How fast anything is, no test asks."""

import json
from pathlib import Path

import pytest

from blm.pipelines.benchmarks.ingest import make_corpus
from blm.pipelines.cli import main
from blm.pipelines.datasets.chat import read_chat
from blm.pipelines.ingest.flow import forget_parts, ingest
from blm.pipelines.ingest.options import IngestConfig, SourceConfig

PEER_PYTHON = Path(__file__).parents[1] / ".venv-datasets/bin/python"


def test_without_the_peer_there_is_one_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "ingest", "--peer-python", str(tmp_path / "python")]) == 2
    assert "make bench-peers" in capsys.readouterr().err


def test_the_corpus_it_makes_is_good_and_without_repeats(tmp_path: Path) -> None:
    path = make_corpus(tmp_path / "corpus", 9, picture_px=(160, 120))
    source = SourceConfig(name="bench", path=path)
    report = ingest(IngestConfig(sources=(source,)), tmp_path / "out", workers=0, progress=lambda text: None)["bench"]
    forget_parts(tmp_path / "out")
    assert report["records"] == report["kept"]["train"] == report["read"]["images"] == 9
    rows = read_chat(tmp_path / "out/train/bench-00000.parquet")
    assert len({row.images for row in rows}) == 9


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not PEER_PYTHON.exists(), reason="no environment of datasets; `make bench-peers` makes it")
def test_both_sides_write_the_same_rows_and_memory_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--records", "60", "--rounds", "1", "--gigabytes", "0.02", "--peer-python", str(PEER_PYTHON)]
    assert main(["bench", "ingest", *words]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["bench"] == "ingest"
    assert result["ratio"] > 0
    memory = result["memory"]
    assert memory["corpus_gb"] == pytest.approx(0.02, rel=0.1)
    assert memory["workers_seen"] >= 1
    assert 0.01 < memory["worker_gb"]["private"] <= memory["worker_gb"]["resident"]
