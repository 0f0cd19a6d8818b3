"""Stage `corpora` with corpora from outside: beside our own rows, and instead of them."""

import json
from pathlib import Path

import pytest
from small_ingest import looking, talking, write_llava
from small_stages import work_here

from blm.model.errors import UserError
from blm.pipelines.config import load_config
from blm.pipelines.corpora import CorporaConfig, corpora
from blm.pipelines.datasets.chat import iterate_chat
from blm.pipelines.datasets.language import language_rows
from blm.pipelines.ingest.options import SourceConfig


@pytest.fixture
def source(tmp_path: Path) -> SourceConfig:
    path = write_llava(tmp_path / "board", [looking(i) for i in range(60)] + [talking(1), talking(1)], range(60))
    return SourceConfig(name="board", path=path, holdout=0.2, category="fields")


@pytest.fixture
def ingest_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray, which `test_sources_alone_make_a_corpus` has."""
    for module in ("flow", "files", "own_rows"):
        work_here(monkeypatch, f"blm.pipelines.ingest.{module}")


@pytest.mark.ray
def test_sources_alone_make_a_corpus(source, stage_context, ray_cluster, capsys):
    context = stage_context("corpora")
    summary = corpora(CorporaConfig(scenes=0, language_copies=0, sources=(source,)), context)
    report = summary["sources"]["board"]
    assert report["records"] == 62
    assert report["duplicates"]["exact"] == 1
    assert summary["train"]["rows_by_source"] == {"board": report["kept"]["train"]}
    assert summary["test"]["questions_by_category"] == {"fields": report["kept"]["test"]}
    assert report["kept"]["test"] > 3
    assert summary["scenes_kept"] == {"test": 0, "train": 0}
    assert "episodes" not in summary, "nobody asked about episodes"
    printed = capsys.readouterr().out
    assert "[corpora] board: llava (" in printed
    assert f"conversations by source: board {report['kept']['train']} (100%)" in printed
    folders = {path.name for path in context.out.iterdir()}
    assert folders == {"train", "test", "ingest", "quarantine"} - ({"quarantine"} if not report["rejected"] else set())
    json.dumps(summary)


def test_sources_stand_beside_language_whose_test_questions_they_may_not_teach(source, stage_context, ingest_here):
    context = stage_context("corpora")
    summary = corpora(CorporaConfig(scenes=0, language_copies=1, sources=(source,)), context)
    train, test = language_rows(0, 1)
    assert summary["train"]["rows_by_source"]["language"] == len(train)
    assert summary["test"]["rows_by_source"]["language"] == len(test)
    assert summary["train"]["rows_by_source"]["board"] == summary["sources"]["board"]["kept"]["train"]
    ids = [row.id for split in ("train", "test") for row in iterate_chat(context.out / split)]
    assert len(ids) == len(set(ids))


def test_a_corpus_without_a_test_split_is_refused(source, stage_context, ingest_here):
    whole = SourceConfig(name="board", path=source.path)
    with pytest.raises(UserError, match="no conversations for testing; give a source a holdout"):
        corpora(CorporaConfig(scenes=0, language_copies=0, sources=(whole,)), stage_context("corpora"))


def test_a_preset_names_sources_and_mixtures(tmp_path):
    text = """
corpora:
  scenes: 0
  decontaminate: [benchmarks/EgoThink]
  sources:
    - {name: robovqa, path: data/robovqa, fps: 2, columns: {messages: talk}}
    - name: llava
      path: data/llava.json
      media_root: data/coco
"""
    (tmp_path / "mine.yaml").write_text(text)
    options = load_config(str(tmp_path / "mine.yaml")).corpora
    assert [source.name for source in options.sources] == ["robovqa", "llava"]
    assert options.sources[0].fps == 2.0
    assert options.sources[0].columns == {"messages": "talk"}
    assert options.sources[1].media_root == Path("data/coco")
    assert options.decontaminate == (Path("benchmarks/EgoThink"),)
    (tmp_path / "mine.yaml").write_text(text.replace("fps: 2", "fsp: 2"))
    with pytest.raises(UserError, match=r"unknown option 'corpora\.sources\[0\]\.fsp'; did you mean 'fps'"):
        load_config(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"scenes": 0}, r"corpora\.scenes is 0; give 1 or more, or name other sources"),
        ({"max_rejected_share": 1.5}, r"max_rejected_share is 1\.5"),
        ({"language_copies": -1}, r"corpora\.language_copies is -1"),
    ],
)
def test_impossible_options_are_refused(options, problem):
    with pytest.raises(UserError, match=problem):
        CorporaConfig(**options)
