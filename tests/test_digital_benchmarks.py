"""The published benchmarks are read from their own layouts, asked in their own words, and nothing of them is lost."""

import json
from collections import Counter
from pathlib import Path

import pytest
from small_benchmarks import (
    EPISODE,
    QUESTION,
    cosmos_rows,
    write_all,
    write_cosmos,
    write_egothink,
    write_egothink_parquet,
    write_rows,
    write_sharerobot,
)
from small_corpus import write_corpus

from blm.model.errors import UserError
from blm.pipelines.digital import cosmos, egothink, own, sharerobot
from blm.pipelines.digital.benchmarks import BENCHMARKS, LoadRules, load_items
from blm.pipelines.digital.item import Decoding
from blm.pipelines.digital.media import MediaRules, show

# ------------------------------------------------------------------------------------------------------------- cosmos


def test_every_row_is_a_question_although_rows_share_clips(tmp_path: Path) -> None:
    write_cosmos(tmp_path, "robovqa")
    items = cosmos.load(tmp_path, "robovqa")
    assert [item.id for item in items] == ["0000", "0001", "0002"]
    assert [item.reference for item in items] == ["B", "A", "B"]
    assert items[0].media == items[1].media
    assert not any(item.missing for item in items)


def test_options_that_columnar_readers_invent_are_dropped(tmp_path: Path) -> None:
    write_cosmos(tmp_path, "robovqa")
    items = cosmos.load(tmp_path, "robovqa")
    assert items[1].options == {"A": "yes", "B": "no"}
    assert "None" not in items[1].messages[1]["text"]


def test_the_prompt_is_the_official_one(tmp_path: Path) -> None:
    write_cosmos(tmp_path, "agibot")
    letter = cosmos.load(tmp_path, "agibot")[0]
    asked = (
        f"{QUESTION}\n(A) Grasp the cup\n(B) Push the cup\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert letter.messages == (
        {"role": "system", "text": "Answer the questions."},
        {"role": "user", "text": f"<video>{asked}"},
    )
    assert letter.decoding == Decoding(max_new_tokens=10)
    reasoning = cosmos.load(tmp_path, "agibot", "reasoning")[0]
    assert reasoning.messages[1]["text"] == (
        f"<video>{asked}\nPlease answer the question in the following format: "
        "<think> your reasoning </think> <answer> your single letter answer </answer>."
    )
    assert reasoning.decoding == Decoding(max_new_tokens=1024, temperature=0.6, top_p=0.95, seed=1, tries=10)


def test_further_attempts_are_longer_and_hotter() -> None:
    first = cosmos.DECODING["reasoning"]
    assert first.attempt(0) == first
    assert (first.attempt(2).max_new_tokens, first.attempt(2).temperature) == (1024 + 512, pytest.approx(0.7))
    assert first.attempt(9).temperature == 0.9


def test_packed_clips_are_unpacked_once(tmp_path: Path) -> None:
    folder = write_cosmos(tmp_path / "deep" / "Cosmos-Reason1-Benchmark", "robofail", packed=True)
    items = cosmos.load(tmp_path, "robofail")
    assert Path(items[0].media[0].path) == folder / "clips" / "b.mp4"
    assert sorted(path.name for path in folder.iterdir()) == [
        "clips",
        "clips.tar.gz",
        "robofail_benchmark_qa_pairs.json",
    ]
    assert cosmos.load(tmp_path, "robofail") == items


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    folder = write_cosmos(tmp_path, "robofail", packed=True)
    archive = folder / "clips.tar.gz"
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(UserError, match=r"clips\.tar\.gz cannot be unpacked"):
        cosmos.load(tmp_path, "robofail")
    assert not (folder / "clips").exists()


def test_missing_clips_are_told_question_by_question(tmp_path: Path) -> None:
    folder = write_cosmos(tmp_path, "holoassist")
    (folder / "clips" / "b.mp4").unlink()
    assert [item.missing for item in cosmos.load(tmp_path, "holoassist")] == ["clips/b.mp4", "clips/b.mp4", ""]


def test_malformed_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "robovqa_benchmark_qa_pairs.json"
    with pytest.raises(UserError, match="is nowhere below"):
        cosmos.load(tmp_path, "robovqa")
    write_rows(path, [{"video": "a.mp4"}])
    with pytest.raises(UserError, match="row 0 is not a question"):
        cosmos.load(tmp_path, "robovqa")
    row = cosmos_rows()[0]
    row["qa_pairs"]["answer"] = "E"
    write_rows(path, [row])
    with pytest.raises(UserError, match=r"row 0: the answer 'E' is none of its options A, B"):
        cosmos.load(tmp_path, "robovqa")


# ----------------------------------------------------------------------------------------------------------- egothink


@pytest.mark.parametrize("write", [write_egothink, write_egothink_parquet])
def test_egothink_is_read_from_the_repository_and_the_hub(tmp_path: Path, write) -> None:
    items = egothink.load(write(tmp_path))
    assert Counter(item.category for item in items) == dict.fromkeys(egothink.CATEGORIES, 2)
    assert {item.decoding.max_new_tokens for item in items if "planning" in item.category} == {300}
    assert {item.decoding.max_new_tokens for item in items if "planning" not in item.category} == {30}
    first = items[0]
    assert first.question == "What about activity 0?"
    assert first.messages[0]["text"] == (
        "<image>Please let your answer be as short as possible. Question: What about activity 0? Short answer:"
    )
    assert not first.missing
    shades = [show(item.media[0], MediaRules()).getpixel((0, 0))[0] for item in items[:2]]
    assert shades == pytest.approx([100, 101], abs=2)


def test_egothink_tells_missing_pictures_and_damaged_files(tmp_path: Path) -> None:
    write_egothink(tmp_path)
    (tmp_path / "data/Activity/images/1.jpg").unlink()
    assert [bool(item.missing) for item in egothink.load(tmp_path)[:3]] == [False, True, False]
    write_rows(tmp_path / "data/Object/affordance/annotations.json", [{"question": "?"}])
    with pytest.raises(UserError, match=r"affordance/annotations\.json is not a file of EgoThink"):
        egothink.load(tmp_path)
    with pytest.raises(UserError, match=r"no annotations\.json of EgoThink"):
        egothink.load(tmp_path / "data/Forecast/images")


# --------------------------------------------------------------------------------------------------------- sharerobot


def test_sharerobot_finds_its_frames_behind_strange_names(tmp_path: Path) -> None:
    items = sharerobot.load(write_sharerobot(tmp_path))
    assert Counter(item.category for item in items) == dict.fromkeys(sharerobot.CATEGORIES, 2)
    assert len({item.id for item in items}) == 20
    first = items[0]
    assert "#" in EPISODE
    assert "(" in EPISODE
    assert not first.missing
    assert [Path(media.path).parts[-2:] for media in first.media] == [(EPISODE, f"frame_{i}.png") for i in range(3)]
    assert first.messages[0]["text"] == "<image><image><image>\nAfter <move the cup 0>, what comes next?"
    assert first.question == "After <move the cup 0>, what comes next?"


def test_sharerobot_frames_may_lie_elsewhere_and_be_fewer(tmp_path: Path) -> None:
    write_sharerobot(tmp_path / "a", frames=5)
    images = (tmp_path / "a/planning/images").rename(tmp_path / "frames")
    assert all(item.missing for item in sharerobot.load(tmp_path / "a"))
    items = sharerobot.load(tmp_path / "a", images, max_images=3)
    assert not any(item.missing for item in items)
    assert [Path(media.path).name for media in items[0].media] == ["frame_0.png", "frame_2.png", "frame_4.png"]
    assert items[0].messages[0]["text"].count("<image>") == 3


def test_sharerobot_takes_the_category_from_the_task_or_the_file(tmp_path: Path) -> None:
    assert sharerobot.category_of("Planning_with_Context_Task", "planning_task") == "planning_with_context_task"
    assert sharerobot.category_of("", "planning_task_generated_templates") == "planning_task"
    assert sharerobot.category_of("", "planning_remaining_steps_task_x") == "planning_remaining_steps_task"
    assert sharerobot.category_of("other", "notes") == ""


def test_sharerobot_refuses_training_questions(tmp_path: Path) -> None:
    write_sharerobot(tmp_path)
    for path in (tmp_path / "planning/test").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="jsons holds training questions too"):
        sharerobot.load(tmp_path)


# ---------------------------------------------------------------------------------------------------------------- all


def test_all_benchmarks_are_found_below_one_folder(tmp_path: Path) -> None:
    write_all(tmp_path)
    found = {name: load_items(b, tmp_path, LoadRules()) for name, b in BENCHMARKS.items() if b.kind != "own"}
    assert {name: len(items) for name, items in found.items()} == {
        "robovqa": 3, "agibot": 3, "holoassist": 3, "robofail": 3, "egothink": 12, "sharerobot": 10,
    }  # fmt: skip
    assert sum(BENCHMARKS["egothink"].expected.values()) == 700
    assert sum(BENCHMARKS["sharerobot"].expected.values()) == 4100
    assert [sum(BENCHMARKS[name].expected.values()) for name in ("robovqa", "agibot")] == [110, 100]


def test_links_that_go_round_in_circles_do_no_harm(tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "cosmos" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "ShareRobot" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(cosmos.load(tmp_path, "robovqa")) == 3
    assert len(sharerobot.load(tmp_path)) == 10
    with pytest.raises(UserError, match="is no folder"):
        cosmos.load(tmp_path / "none", "robovqa")


def test_a_limit_takes_sub_categories_evenly(tmp_path: Path) -> None:
    write_egothink(tmp_path, 3)
    some = load_items(BENCHMARKS["egothink"], tmp_path, LoadRules(), limit=24)
    assert Counter(item.category for item in some) == dict.fromkeys(egothink.CATEGORIES, 2)


def test_our_own_questions_are_a_benchmark_like_the_others(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    items = own.load(tmp_path)
    first, last = items[0], items[-1]
    assert (first.category, first.reference, len(first.media), len(last.media)) == ("white", "yes", 1, 0)
    assert first.messages == ({"role": "user", "text": "<image>\nIs the cube white?"},)
    assert show(first.media[0], MediaRules()).getpixel((0, 0)) == (250, 250, 250)
    assert own.meaning(first, "Yes.") == "yes"
    assert json.dumps(first.messages)


def test_the_hub_is_an_honest_error_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"nvidia/Cosmos-Reason1-Benchmark cannot be fetched"):
        load_items(BENCHMARKS["robovqa"], None, LoadRules())
