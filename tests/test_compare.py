"""`blm evaluate compare`: two evaluations that are there, or policies rolled out until it is decided."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from blm.model.errors import UserError
from blm.pipelines.cli import main
from blm.pipelines.evaluation.compare import default_out
from blm.pipelines.evaluation.comparison import Plan, compare, looks
from blm.pipelines.evaluation.paired import Outcomes, read_outcomes
from blm.pipelines.evaluation.sequential import Rules
from blm.pipelines.evaluation.verdicts import text

CELLS = ("panda/PushCube", "panda/PickCube")
FIRST_SEED = 1_000_000
WORLD = {"cells": list(CELLS), "cameras": ["front"], "image_px": 64, "geometry": "lite", "spawn_spread": 1.0}

Success = Callable[[str, int], bool]


def record(cell: str, seed: int, policy: str, success: bool, **more: Any) -> dict[str, Any]:
    failure = None if success else "not_moved"
    known = {"cell": cell, "seed": seed, "policy": policy, "success": success, "failure": failure, "error": False}
    return known | {"instruction": f"do it in {cell}", "backend": "cpu, lite"} | more


def write(folder: Path, seeds: int, world: dict[str, Any] | None = None, **policies: Success) -> Path:
    """An evaluation of `seeds` scenes in both cells; each policy does the scenes that its function says."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        record(cell, FIRST_SEED + i, policy, does(cell, i))
        for policy, does in policies.items()
        for cell in CELLS
        for i in range(seeds)
    ]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "manifest.json").write_text(json.dumps({"world": world or WORLD}))
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = folder / "episodes.jsonl"
    path.write_text("".join(json.dumps(change(json.loads(line))) + "\n" for line in path.read_text().splitlines()))


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[dict[str, Any], str]:
    """The object of the last line, and all that was printed."""
    assert main(["evaluate", "compare", *map(str, words)]) == 0
    shown = capsys.readouterr().out
    return json.loads(shown.splitlines()[-1]), shown


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["evaluate", "compare", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_a_clear_winner_is_found_before_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "first", 50, blm=lambda cell, i: i % 10 != 0)
    second = write(tmp_path / "second", 50, blm=lambda cell, i: i % 2 == 0)
    found, shown = run(capsys, first, second, "--out", tmp_path / "out")
    assert found["verdict"] == "first"
    assert found["better"].endswith("/first")
    assert found["stopped_early"]
    assert found["rounds"] < 25
    assert found["rounds_planned"] == 50
    assert found["pairs"] == 2 * found["rounds"] == found["first"]["episodes"]
    assert found["both"] + found["only_first"] + found["only_second"] + found["neither"] == found["pairs"]
    assert "first is better: decided after" in shown
    assert "simulated by: cpu, lite" in shown
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert {key: written[key] for key in found} == found
    assert [row["cell"] for row in written["cells"]] == list(CELLS)
    assert [row[0] for row in written["path"]] == [2 * (i + 1) for i in range(found["rounds"])]


def test_the_other_way_round_the_other_is_better_by_as_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "first", 40, blm=lambda cell, i: i % 10 != 0)
    second = write(tmp_path / "second", 40, blm=lambda cell, i: i % 2 == 0)
    one, _ = run(capsys, first, second, "--out", tmp_path / "out")
    other, _ = run(capsys, second, first, "--out", tmp_path / "out")
    assert other["verdict"] == "second"
    assert other["better"] == one["better"]
    assert other["difference"] == -one["difference"]
    assert (other["difference_low"], other["difference_high"]) == (-one["difference_high"], -one["difference_low"])


def test_equals_stay_undecided_or_are_called_equal_if_that_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "a", 100, blm=lambda cell, i: i % 3 == 0, another=lambda cell, i: (i + 3) % 3 == 0)
    found, shown = run(capsys, folder, f"{folder}@another", "--out", tmp_path / "out")
    assert (found["verdict"], found["better"], found["rounds"], found["p"]) == ("open", None, 100, 1.0)
    assert "undecided after 200 scenes" in shown
    found, shown = run(capsys, folder, f"{folder}@another", "--out", tmp_path / "out", "--equal-within", "10")
    assert found["verdict"] == "equal"
    assert found["rounds"] < 100
    assert "no difference of 10 points or more" in shown


def test_never_stopping_asks_mcnemar_once_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "first", 30, blm=lambda cell, i: i >= 1)
    second = write(tmp_path / "second", 30, blm=lambda cell, i: i >= (5 if cell == CELLS[0] else 1))
    found, _ = run(capsys, first, second, "--out", tmp_path / "out", "--stop", "never")
    assert (found["only_first"], found["only_second"], found["verdict"]) == (4, 0, "open")
    assert found["p"] == 2 / 2**4
    found, _ = run(capsys, first, second, "--out", tmp_path / "out", "--stop", "never", "--alpha", "0.2")
    assert found["verdict"] == "first"
    assert not found["stopped_early"]


def test_cells_and_episodes_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "a", 20, blm=lambda cell, i: True, random=lambda cell, i: cell == CELLS[1])
    words = (folder, f"{folder}@random", "--out", tmp_path / "out")
    found, _ = run(capsys, *words, "--cells", CELLS[1], "--episodes", "7")
    assert (found["pairs"], found["both"]) == (7, 7)
    assert "no episodes of xarm6/PushCube on both sides" in refused(capsys, *words, "--cells", "xarm6/PushCube")


def test_a_run_is_found_by_its_folder_and_its_comparisons_lie_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "trial" / "evaluate-1a2b3c4d", 12, blm=lambda cell, i: True, random=lambda cell, i: False)
    (tmp_path / "trial" / "run.json").write_text(json.dumps({"stages": {"evaluate": {"folder": "evaluate-1a2b3c4d"}}}))
    run_folder = str(tmp_path / "trial")
    out = default_out(run_folder, f"{run_folder}@random")
    assert out.parent == tmp_path / "trial" / "compare"
    found, _ = run(capsys, run_folder, f"{run_folder}@random")
    assert found["verdict"] == "first"
    assert (out / "compare.json").exists()
    assert default_out("random", "blm://here:1").parent == Path("runs/compare")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r | {"backend": "cpu, official"}, "cannot stand in one table"),
        (lambda r: r | {"instruction": "something else"}, "only the same task in the same words"),
        (lambda r: r | {"seed": r["seed"] + 1000}, "share no scene"),
        (lambda r: r | {"policy": "other"}, "holds no episodes of 'blm'; it has other"),
        (lambda r: {"cell": r["cell"]}, "line 1 is no episode"),
    ],
    ids=["backend", "words", "seeds", "policy", "damage"],
)
def test_what_cannot_be_paired_is_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = [write(tmp_path / name, 5, blm=lambda cell, i: True) for name in ("a", "b")]
    rewrite(folders[1], change)
    assert message in refused(capsys, folders[0], f"{folders[1]}@blm", "--out", tmp_path / "out")


def test_other_worlds_are_other_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "a", 5, blm=lambda cell, i: True)
    second = write(tmp_path / "b", 5, world=WORLD | {"spawn_spread": 0.5}, blm=lambda cell, i: True)
    assert "world.spawn_spread=1.0" in refused(capsys, first, second, "--out", tmp_path / "out")


def test_of_several_policies_one_must_be_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", 2, one=lambda cell, i: True, two=lambda cell, i: False)
    with pytest.raises(UserError, match="holds episodes of one, two; name one"):
        read_outcomes(str(folder))
    assert read_outcomes(str(tmp_path / "nowhere")) is None
    assert read_outcomes("random") is None


def test_impossible_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "a", 2, blm=lambda cell, i: True)
    assert "--alpha must lie between 0 and 1" in refused(capsys, folder, folder, "--alpha", "2")
    assert "0 or more --episodes" in refused(capsys, folder, folder, "--episodes", "-1")


@pytest.mark.parametrize(("rounds", "first"), [(1, 10), (10, 10), (50, 10), (1000, 1), (7, 3)])
def test_live_looks_grow_and_end_at_the_end(rounds: int, first: int) -> None:
    found = looks(rounds, first, early=True, live=True)
    assert found[-1] == rounds
    assert list(found) == sorted(set(found))
    assert found[0] == min(first, rounds)
    assert looks(rounds, first, early=True, live=False) == tuple(range(1, rounds + 1))
    assert looks(rounds, first, early=False, live=True) == (rounds,)


@dataclass
class Scripted:
    """A live side that makes the scenes that it is asked for, and remembers how many."""

    name: str
    does: Success
    live: bool = True
    asked: list[int] = field(default_factory=list)

    def outcomes(self, cells: Sequence[str], seeds: Sequence[int]) -> Outcomes:
        self.asked.append(len(seeds))
        made = {(cell, seed): record(cell, seed, self.name, self.does(cell, seed)) for cell in cells for seed in seeds}
        return Outcomes(name=self.name, source=self.name, episodes=made)


def test_policies_are_rolled_out_only_until_it_is_decided() -> None:
    first, second = Scripted("good", lambda cell, i: i % 7 != 0), Scripted("bad", lambda cell, i: i % 3 == 0)
    plan = Plan(cells=CELLS, seeds=tuple(range(200)), looks=looks(200, 5, early=True, live=True), rules=Rules())
    said: list[str] = []
    found = compare(first, second, plan, said.append)
    assert found["better"] == "good"
    assert first.asked == second.asked == list(plan.looks[: len(first.asked)])
    assert found["rounds"] == first.asked[-1] < 40
    assert len(said) == len(first.asked)
    assert "good is better" in text(found)


def test_two_sides_of_one_name_are_told_apart() -> None:
    sides = [Scripted("tiny", lambda cell, i, best=best: best or i % 2 == 0) for best in (False, True)]
    plan = Plan(cells=CELLS, seeds=tuple(range(50)), looks=(50,), rules=Rules())
    assert compare(*sides, plan, print)["better"] == "tiny (B)"


def test_an_end_is_tested_once() -> None:
    sides = [Scripted(name, lambda cell, i, name=name: name == "good" or i >= 5) for name in ("good", "bad")]
    plan = Plan(cells=CELLS[:1], seeds=tuple(range(8)), looks=(8,), rules=Rules(alpha=0.2))
    assert compare(*sides, plan, print)["better"] == "good"
    spent = Plan(cells=plan.cells, seeds=plan.seeds, looks=plan.looks, rules=plan.rules, end_is_spent=True)
    assert compare(*sides, spent, print)["verdict"] == "open"


@pytest.mark.sim
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_policy_meets_the_scenes_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from blm.actors.sim.tasks import get_task, instruction_for

    done = write(tmp_path / "done", 8, blm=lambda cell, i: True)
    words = {cell: get_task(cell.split("/")[1]) for cell in CELLS}
    rewrite(done, lambda r: r | {"instruction": instruction_for(words[r["cell"]], r["seed"], held_out=False)})
    found, shown = run(
        capsys,
        *(done, "random", "--cells", "panda/PickCube", "--out", tmp_path / "out", "--actors", "1", "--block", "6"),
        *("--set", "max_steps=16"),
    )
    assert found["better"].endswith("done")
    assert found["second"]["successes"] == 0
    assert "6 scenes: 6 done by" in shown
    records = [json.loads(line) for line in (tmp_path / "out/second/episodes.jsonl").read_text().splitlines()]
    assert {r["policy"] for r in records} == {"random"}
    assert [r["seed"] for r in records] == [FIRST_SEED + i for i in range(found["rounds"])]
