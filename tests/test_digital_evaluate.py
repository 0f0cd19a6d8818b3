"""`blm evaluate digital` from folder to table, with a real tiny model that looks at real clips and pictures."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_benchmarks import write_all, write_cosmos, write_file
from small_corpus import write_corpus
from small_families import write_family
from small_judge import small_judge
from small_stages import work_here

from blm.model.errors import UserError
from blm.pipelines.digital.benchmarks import BENCHMARKS, LoadRules, load_items
from blm.pipelines.digital.command import add_arguments, main, settings_of
from blm.pipelines.digital.engine import Ask, Reply
from blm.pipelines.digital.evaluation import evaluate
from blm.pipelines.digital.generate import Asker, EngineConfig, Reading, build_engine, generate
from blm.pipelines.digital.item import Item
from blm.pipelines.digital.media import MediaRules, show

SMALL = ["--engine", "transformers", "--device", "cpu", "--batch", "8", "--max-frames", "4"]


def arguments(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([*map(str, words), *SMALL])


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("benchmarks"))


# ------------------------------------------------------------------------------------------------------------- engine


class Parrot:
    """An engine that says what it is told to, one reply after the other."""

    def __init__(self, replies: Sequence[str]) -> None:
        self.replies = list(replies)
        self.asks: list[Ask] = []

    def answer(self, asks: Sequence[Ask]) -> list[Reply]:
        self.asks += asks
        return [Reply(text=self.replies.pop(0)) for _ in asks]


def parrot_asker(replies: Sequence[str], *, reasoning: bool) -> tuple[Asker, Parrot]:
    parrot = Parrot(replies)
    return Asker(parrot, MediaRules(), Reading(parser="robust", reasoning=reasoning)), parrot


def task(number: int, *, tries: int = 1, media: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {
        "benchmark": "robovqa",
        "id": str(number),
        "asked": "x",
        "messages": [{"role": "user", "text": "?"}],
        "media": list(media),
        "decoding": {"max_new_tokens": 10, "temperature": 0.6, "top_p": 0.95, "seed": 1, "tries": tries},
        "options": {"A": "yes", "B": "no"},
    }


def test_answers_in_which_nothing_is_read_are_drawn_again() -> None:
    asker, parrot = parrot_asker(["<answer>A</answer>", "<think>hm", "<think>hm", "<answer>B</answer>"], reasoning=True)
    records = asker.answer([task(0, tries=10), task(1, tries=10)])
    assert [(r["id"], r["said"], r["tries"]) for r in records] == [
        ("0", "<answer>A</answer>", 1),
        ("1", "<answer>B</answer>", 3),
    ]
    assert [ask.decoding.max_new_tokens for ask in parrot.asks] == [10, 10, 266, 522]
    asker, parrot = parrot_asker(["hm"] * 5, reasoning=False)
    assert asker.answer([task(0)])[0]["tries"] == 1
    asker, parrot = parrot_asker(["hm"] * 5, reasoning=True)
    assert (asker.answer([task(0, tries=4)])[0]["tries"], len(parrot.replies)) == (4, 1)


def test_a_picture_that_cannot_be_shown_is_an_error_of_its_question_alone(tmp_path: Path) -> None:
    write_file(tmp_path / "bad.jpg", b"no picture")
    bad = {"kind": "image", "path": str(tmp_path / "bad.jpg"), "row": -1, "index": 0}
    asker, parrot = parrot_asker(["A"], reasoning=False)
    records = asker.answer([task(0, media=[bad]), task(1)])
    assert "bad.jpg" in records[0]["error"]
    assert (records[1]["said"], records[1]["error"], len(parrot.asks)) == ("A", "", 1)


def test_transformers_answers_pictures_and_clips_the_same_in_any_company(learned_mllm: Path, tmp_path: Path) -> None:
    engine = build_engine(config(learned_mllm), max_images=3, max_videos=1)
    asks = small_asks(tmp_path)
    together = engine.answer(asks)
    assert together == [engine.answer([ask])[0] for ask in asks]
    assert all(reply.text and not reply.error for reply in together)
    long = Ask(messages=[{"role": "user", "text": "cube " * 3000}], media=[], decoding=asks[0].decoding)
    replies = engine.answer([asks[0], long])
    assert replies[0] == together[0]
    assert "2047 are allowed" in replies[1].error


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl"])
def test_other_families_are_shown_the_same(family: str, tmp_path: Path) -> None:
    write_family(tmp_path / "model", family)
    engine = build_engine(config(tmp_path / "model"), max_images=3, max_videos=1)
    asks = small_asks(tmp_path / "benchmarks")
    together = engine.answer(asks)
    assert [reply.error for reply in together] == [""] * 4
    assert together == [engine.answer([ask])[0] for ask in asks]


def config(model: Path, kind: str = "transformers") -> EngineConfig:
    return EngineConfig(kind=kind, model=str(model), dtype="float32", batch=4)  # type: ignore[arg-type]


def small_asks(folder: Path) -> list[Ask]:
    """A clip, three pictures, plain words: everything a benchmark shows."""
    from blm.pipelines.digital import cosmos, egothink, sharerobot

    write_all(folder)
    items = [cosmos.load(folder, "robovqa")[0], egothink.load(folder)[0], sharerobot.load(folder)[0]]
    asks = [
        Ask(
            messages=item.messages,
            media=[show(media, MediaRules(max_frames=4)) for media in item.media],
            decoding=items[0].decoding,
        )
        for item in items
    ]
    return [*asks, Ask(messages=[{"role": "user", "text": "Where is it?"}], media=[], decoding=items[0].decoding)]


@pytest.mark.ray
@pytest.mark.slow
def test_vllm_in_an_actor_is_shown_and_says_what_transformers_does(
    ray_cluster: None, learned_mllm: Path, benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [item for name in ("robovqa", "robofail", "egothink", "sharerobot") for item in some(name, benchmarks)]
    items += some("simulator", write_corpus(tmp_path / "corpora"))
    long = replace(items[-1], id="long", messages=({"role": "user", "text": "cube " * 3000},), media=())
    common: dict[str, Any] = {
        "rules": MediaRules(max_frames=4),
        "reading": Reading(parser="robust", reasoning=False),
        "progress": print,
    }
    by_vllm = generate([*items, long], engine=config(learned_mllm, "vllm"), path=tmp_path / "vllm.jsonl", **common)
    work_here(monkeypatch, "blm.pipelines.digital.generate")
    by_transformers = generate(
        [*items, long], engine=config(learned_mllm), path=tmp_path / "transformers.jsonl", **common
    )
    for item in items:
        one, other = (
            {name: r[name] for name in ("said", "finished")} for r in (by_vllm[item.key], by_transformers[item.key])
        )
        assert one == other, item.id
        assert one["said"]
    assert [key for key, record in by_vllm.items() if record["error"]] == [long.key]
    assert "2047 are allowed" in by_transformers[long.key]["error"]


def some(name: str, root: Path) -> list[Item]:
    return load_items(BENCHMARKS[name], root, LoadRules(), limit=6)


# ---------------------------------------------------------------------------------------------------------- the whole


@pytest.mark.ray
@pytest.mark.slow
def test_all_six_are_asked_judged_and_tabled(
    ray_cluster: None,
    learned_mllm: Path,
    tiny_mllm: Path,
    benchmarks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    with small_judge() as server:
        words = ["--model", learned_mllm, "--benchmarks", benchmarks, "--out", out, "--label", "tiny"]
        judged = ["--judge-url", server.url, "--judge-model", "small-judge"]
        assert main("evaluate digital", arguments(*words, *judged)) == 0
        row = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert row["questions"] == {
            "robovqa": 3, "agibot": 3, "holoassist": 3, "robofail": 3, "egothink": 12, "sharerobot": 10,
        }  # fmt: skip
        lines = lines_of(out)
        assert len(lines) == 34
        assert not any(line["error"] for line in lines)
        assert all(line["said"] for line in lines)
        letters = [line for line in lines if line["benchmark"] == "robovqa"]
        right = sum(line["extracted"] == line["reference"] for line in letters)
        assert row["robovqa"] == round(100 * right / 3, 2)
        grades = [line["score"] for line in lines if line["benchmark"] == "egothink"]
        assert row["egothink"] == pytest.approx(100 * sum(grades) / 12, abs=0.01)
        result = json.loads((out / "digital.json").read_text())
        assert result["benchmarks"]["egothink"]["scored_by"] == "judge small-judge"
        assert row["average"] is not None
        asked = len(server.requests)

        work_here(monkeypatch, "blm.pipelines.digital.generate")
        # A second call asks neither the model nor the judge; torn lines of a killed one are asked again.
        log = out / "generated.jsonl"
        kept = log.read_text().splitlines()[:-3]
        kept[0] = json.dumps(json.loads(kept[0]) | {"said": "edited"})
        log.write_text("\n".join(kept) + '\n{"benchmark": "robo')
        main("evaluate digital", arguments(*words, *judged))
        assert "31 of 34 answers are here already" in capsys.readouterr().out
        assert sum(line["said"] == "edited" for line in lines_of(out)) == 1
        assert len(server.requests) <= asked + 1

    # Another way of asking makes other answers; another model needs another folder.
    main("evaluate digital", arguments(*words, "--only", "robovqa", "--max-video-pixels", "2000"))
    assert "answers are here already" not in capsys.readouterr().out
    markdown = (out / "digital.md").read_text()
    assert "| BLM1 | 95.45 | 47.00 | 56.00 | 66.00 | 59.42 | 65.40 | 64.88 |" in markdown
    with pytest.raises(UserError, match="holds answers of another model"):
        main("x", arguments("--model", tiny_mllm, "--benchmarks", benchmarks, "--out", out))


@pytest.mark.ray
def test_our_own_questions_and_missing_media_are_scored_honestly(
    ray_cluster: None,
    learned_mllm: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work_here(monkeypatch, "blm.pipelines.digital.generate")
    corpora = write_corpus(tmp_path / "corpora")
    folder = write_cosmos(tmp_path / "cosmos", "robovqa")
    (folder / "clips" / "a.mp4").unlink()
    words = [
        "--model",
        learned_mllm,
        "--benchmarks",
        tmp_path / "cosmos",
        "--corpora",
        corpora,
        "--out",
        tmp_path / "out",
    ]
    words += ["--only", "robovqa,simulator,language"]
    with pytest.raises(UserError, match=r"robovqa: media of 1 of 3 questions are missing, as clips/a\.mp4"):
        evaluate(settings_of(arguments(*words)))
    row = evaluate(settings_of(arguments(*words, "--allow-missing")))
    assert row["simulator"] == 100.0
    assert row["language"]["accuracy"] == 1.0  # it has learned the only question about words by heart
    assert row["language"]["perplexity"] == pytest.approx(1.0, abs=0.1)
    assert "robovqa: 2 of 110 questions can be asked" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "digital.json").read_text())["benchmarks"]
    assert (result["robovqa"]["n"], result["robovqa"]["missing"], result["robovqa"]["errors"]) == (3, 1, 1)
    missing = [line for line in lines_of(tmp_path / "out") if line["error"]]
    assert [(line["score"], line["error"]) for line in missing] == [(0.0, "missing: clips/a.mp4")]
    rows = {row["category"]: row for row in result["simulator"]["categories"]}
    assert (rows["white"]["score"], rows["white"]["majority"], rows["white"]["n"]) == (1.0, 0.5, 8)


def test_settings_that_make_no_sense_say_what_to_do(tmp_path: Path, tiny_mllm: Path) -> None:
    for words, message in (
        ([], "give --benchmarks FOLDER"),
        (["--benchmarks", tmp_path, "--only", "robovq"], "robovqa"),
        (["--benchmarks", tmp_path / "none"], "is no folder"),
        (["--benchmarks", tmp_path, "--only", "simulator"], "--corpora"),
        (["--hub", "--judge-url", "http://x"], "needs a URL and a model"),
        (["--hub", "--judge", "endpoint"], "needs a URL and a model"),
        (["--hub", "--judge", "exact", "--judge-model", "x"], "leave them out"),
        (["--hub", "--tensor-parallel", "2"], "--engine vllm and --device cuda"),
        (["--hub", "--limit", "-1"], "--limit is -1"),
    ):
        with pytest.raises(UserError, match=message):
            settings_of(arguments("--model", tiny_mllm, *words))
    with pytest.raises(UserError, match=r"config\.json is missing"):
        evaluate(
            settings_of(arguments("--model", tmp_path, "--corpora", write_corpus(tmp_path / "c"), "--out", tmp_path))
        )
