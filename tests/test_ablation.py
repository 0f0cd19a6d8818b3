"""Ablations beside their base: stages shared, work resumed, failures told of, success compared on the same seeds."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_ablation
from small_ablation import CALLS, TABLE, study

from blm.model.errors import UserError
from blm.pipelines.ablation.command import add_arguments, compare, main
from blm.pipelines.ablation.study import unchanged
from blm.pipelines.ablation.variants import ABLATIONS, COMMON, choose
from blm.pipelines.config import load_config
from blm.pipelines.preset_files import presets


@pytest.fixture(scope="module", autouse=True)
def one_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One MLflow store for all studies: to make one takes longer than a study of toys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")
        yield


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()
    small_ablation.INTERRUPT.clear()


def rows_of(root: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((root / "toy/ablations.json").read_text())["ablations"]}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a study of two ablations and a sweep, and which stages ran for it."""
    root = tmp_path_factory.mktemp("study")
    CALLS.clear()
    compare(study(root, "no_future", "layer", "no_stage1"), TABLE, {"preset": "toy"})
    return root, list(CALLS)


def test_what_ablations_have_in_common_is_made_once(compared: tuple[Path, list[str]]) -> None:
    root, calls = compared
    # Base; no_stage1 all of it; no_future from Stage II on; layers 1 and 6 from the intents on.
    assert {name: calls.count(name) for name in calls} == {"stage1": 2, "intents": 4, "stage2": 5, "evaluate": 5}
    (run,) = rows_of(root)["no_future"]["seeds"]
    assert [name for name, stage in run["stages"].items() if stage["of_base"]] == ["stage1", "intents"]
    own = sum(stage["wall_s"] for stage in run["stages"].values() if not stage["of_base"])
    assert run["own_s"] == pytest.approx(own, abs=0.06)


def test_success_is_compared_with_the_base_on_the_same_seeds(compared: tuple[Path, list[str]]) -> None:
    rows = rows_of(compared[0])
    assert list(rows) == ["base", "no_stage1", "no_future", "layer=1", "layer=6"]
    base, without = rows["base"], rows["no_stage1"]
    # Skill 15: seeds 0 to 14 of one cell and 0 to 10 of the other. Without Stage I it is 5: 5 and 1.
    assert (base["overall"]["successes"], base["overall"]["episodes"]) == (26, 40)
    assert base["overall"]["low"] == pytest.approx(0.495, abs=1e-3)  # Wilson's interval of 26 in 40
    assert base["overall"]["high"] == pytest.approx(0.779, abs=1e-3)
    assert "mcnemar" not in base["overall"]
    assert without["overall"]["mcnemar"] == {"pairs": 40, "only_first": 0, "only_second": 20, "p": 2 / 2**20}
    assert [(cell["cell"], cell["successes"]) for cell in without["cells"]] == [
        ("panda/PushCube", 5),
        ("panda/PickCube", 1),
    ]
    assert [cell["mcnemar"]["only_second"] for cell in without["cells"]] == [10, 10]
    assert without["seeds"][0]["probe_cm"] == {"panda/PushCube": 11, "panda/PickCube": 11}
    assert without["seeds"][0]["val_flow"] == pytest.approx(1 / 6)


def test_the_tables_say_it_to_people(compared: tuple[Path, list[str]]) -> None:
    page = (compared[0] / "toy/ablations.md").read_text()
    table = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    assert "| 65.0% | 49.5% to 77.9% | 40 | - | - | 1.00 cm | 0.0625 | 50.0% |" in table["base"]
    assert "| 15.0% | 7.1% to 29.1% | 40 | 0 / 20 | 1.9e-06 | 11.00 cm | 0.1667 |" in table["no_stage1"]
    assert "25.0% (11 to 47), p 0.002 |" in table["panda/PushCube"]
    assert "`no_stage1`: no training (`stage1.steps=0`)" in page
    assert "Without a result" not in page


def test_a_second_call_runs_nothing_and_forgets_nothing(compared: tuple[Path, list[str]]) -> None:
    root, _ = compared
    before = rows_of(root)
    compare(study(root, "layer=1"), TABLE, {"preset": "toy"})
    assert CALLS == []
    assert rows_of(root) == before
    compare(study(root, "layer=2"), TABLE, {"preset": "toy"})
    assert CALLS == ["intents", "stage2", "evaluate"]
    assert list(rows_of(root)) == ["base", "no_stage1", "no_future", "layer=1", "layer=2", "layer=6"]


def test_one_that_fails_is_told_of_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = study(tmp_path, "too_big", "no_future", "as_it_is")
    outcomes = compare(small, TABLE, {})
    assert [(outcome.ablation.name, bool(outcome.error)) for outcome in outcomes] == [
        ("base", False),
        ("no_future", False),
        ("too_big", True),
        ("as_it_is", False),
    ]
    rows = rows_of(tmp_path)
    assert rows["too_big"]["seeds"][0]["error"] == "MemoryError: a hundred gigabytes asked for"
    assert rows["too_big"]["overall"]["episodes"] == 0
    assert rows["as_it_is"]["seeds"][0]["note"] == "is the base here"
    assert rows["no_future"]["overall"]["episodes"] == 40
    said = capsys.readouterr().out
    assert "too_big, seed 0: MemoryError: a hundred gigabytes asked for" in said
    CALLS.clear()
    compare(small, TABLE, {})
    assert CALLS == ["stage2"]  # what failed is tried again, and nothing else


def test_without_a_base_there_is_nothing_to_compare(tmp_path: Path) -> None:
    small_ablation.INTERRUPT.append("stage2")
    with pytest.raises(KeyboardInterrupt):
        compare(study(tmp_path, "no_future"), TABLE, {})
    assert CALLS == ["stage1", "intents", "stage2"]


def test_a_study_that_is_broken_off_goes_on_and_its_run_stays_the_bases(tmp_path: Path) -> None:
    small = study(tmp_path, "no_stage1", "no_future")
    compare(study(tmp_path, "no_stage1"), TABLE, {})
    of_base = (tmp_path / "toy/run.json").read_text()
    small_ablation.INTERRUPT.append("evaluate")
    with pytest.raises(KeyboardInterrupt):
        compare(small, TABLE, {})
    assert json.loads((tmp_path / "toy/run.json").read_text())["stages"] == json.loads(of_base)["stages"]
    small_ablation.INTERRUPT.clear()
    CALLS.clear()
    compare(small, TABLE, {})
    assert CALLS == ["evaluate"]


def test_seeds_are_runs_of_their_own_and_one_sample(tmp_path: Path) -> None:
    compare(study(tmp_path, "no_future", seeds=(0, 7)), TABLE, {})
    assert CALLS.count("stage1") == 2
    row = rows_of(tmp_path)["no_future"]
    assert [run["seed"] for run in row["seeds"]] == [0, 7]
    # Skill 13 in place of 15, so two scenes fewer in each cell and run.
    assert row["overall"]["mcnemar"] == {"pairs": 80, "only_first": 0, "only_second": 8, "p": 2 / 2**8}


@pytest.mark.parametrize("preset", presets())
def test_every_ablation_of_the_table_is_an_option_of_every_preset(preset: str) -> None:
    base = load_config(preset)
    chosen = choose([], base)
    names = [ablation.name for ablation in chosen]
    assert len(set(names)) == len(names)
    assert {name.partition("=")[0] for name in names} == {entry.name for entry in ABLATIONS}
    for ablation in chosen:
        assert load_config(preset, [*COMMON, *ablation.beside, *ablation.overrides]) != base


def test_sweeps_go_around_the_presets_value_as_far_as_the_model_is_deep() -> None:
    tiny, paper = load_config("tiny"), load_config("paper")
    assert [ablation.name for ablation in choose(["layer"], tiny)] == ["layer=1", "layer=2", "layer=4"]
    assert [ablation.name for ablation in choose(["layer"], paper)] == ["layer=5", "layer=9", "layer=19", "layer=28"]
    assert [a.name for a in choose(["latents=16", "layer=2", "layer", "layer=2"], tiny)] == [
        "layer=1",
        "layer=2",
        "layer=4",
        "latents=16",
    ]
    assert choose(["latents"], tiny)[0].overrides == ("stage2.policy.latents=2",)


def test_an_ablation_that_leaves_out_what_is_not_there_is_the_base(tmp_path: Path) -> None:
    assert not unchanged(study(tmp_path), TABLE[0])
    assert unchanged(study(tmp_path), TABLE[-1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "no_stage"], "no ablation is called 'no_stage'; did you mean 'no_stage1'?"),
        (["--only", "layer=0"], "layer=0: give a whole number from 1 on"),
        (["--only", "no_future=3"], "no_future has no values"),
        (["--seeds", "0,one"], "--seeds 0,one: give whole numbers"),
        (["--preset", "tinny"], "tinny"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_before_anything_runs(
    tmp_path: Path, words: list[str], message: str
) -> None:
    parser = argparse.ArgumentParser(prog="blm ablate")
    add_arguments(parser)
    with pytest.raises(UserError, match=message):
        main("ablate", parser.parse_args([*words, "--root", str(tmp_path)]))
    assert not list(tmp_path.iterdir())
