"""Which models Stage II trains, which candidate becomes the model, and what a kill in between leaves behind."""

from pathlib import Path

import pytest

from blm.model.errors import UserError
from blm.pipelines.policy_training.candidates import candidate, candidates, choose, export, prune
from blm.pipelines.policy_training.judge import Judge, check_place
from blm.pipelines.policy_training.regimes import model_for, read_models, scopes, write_models
from blm.pipelines.stage2 import Stage2Config
from blm.pipelines.workspace import ResourceConfig, write_json

CELLS = {"panda": ("panda/PickCube", "panda/PushCube"), "xarm6": ("xarm6/PushCube",), "pusht": ("pusht/push the T",)}


@pytest.mark.parametrize(
    ("per", "folders"),
    [
        ("all", ["model"]),
        ("robot", ["models/panda", "models/xarm6", "models/pusht"]),
        (
            "cell",
            [
                "models/panda-PickCube",
                "models/panda-PushCube",
                "models/xarm6-PushCube",
                "models/pusht-push-the-T",
            ],
        ),
    ],
)
def test_every_cell_has_one_model_in_every_regime(tmp_path, per, folders):
    made = scopes(per, CELLS)
    assert [scope.folder for scope in made] == folders
    assert sorted(cell for scope in made for cell in scope.cells) == sorted(
        c for cells in CELLS.values() for c in cells
    )
    write_models(tmp_path, made)
    assert [model["folder"] for model in read_models(tmp_path)] == folders
    for scope in made:
        for cell in scope.cells:
            assert model_for(tmp_path, cell) == tmp_path / scope.folder
    if per == "cell":
        with pytest.raises(UserError, match="no model for xarm7/PushCube; there are some for panda/PickCube"):
            model_for(tmp_path, "xarm7/PushCube")


def test_chosen_cells_alone_are_learned_and_robots_without_any_left_out():
    (one,) = scopes("all", CELLS, ["panda/PushCube"])
    assert (one.robots, one.cells) == (("panda",), ("panda/PushCube",))
    assert [scope.name for scope in scopes("robot", CELLS, ["panda/PushCube", "xarm6/PushCube"])] == ["panda", "xarm6"]
    with pytest.raises(UserError, match=r"stage2\.cells names panda/StackCube, of which there are no demonstrations"):
        scopes("all", CELLS, ["panda/StackCube"])


def test_only_what_the_simulator_has_is_rolled_out():
    (one,) = scopes("all", CELLS)
    assert one.playable == ("panda/PickCube", "panda/PushCube", "xarm6/PushCube")


def rollouts(counts: dict[int, int], episodes: int = 4) -> list[dict]:
    """Validation rollouts of one model: step -> successes."""
    return [
        {"step": step, "success": number < successes}
        for step, successes in counts.items()
        for number in range(episodes)
    ]


def test_the_most_successful_candidate_is_chosen_and_of_several_the_latest():
    chosen = choose(rollouts({500: 1, 1000: 3, 1500: 3, 2000: 2}), 2000)
    assert (chosen.step, chosen.success, chosen.episodes) == (1500, 0.75, 4)
    assert "3 of 4" in chosen.why
    assert chosen.low is not None
    assert chosen.low < 0.75
    without = choose([], 2000)
    assert (without.step, without.success) == (2000, None)


def write_candidate(folder: Path, step: int) -> None:
    write_json(candidate(folder, step) / "blm.json", {"provenance": {"step": step}})


def test_candidates_that_lost_are_deleted_and_those_not_judged_kept(tmp_path):
    for step in (500, 1000, 1500, 2000):
        write_candidate(tmp_path, step)
    (tmp_path / ".tmp-step-002500-1").mkdir()  # half written
    prune(tmp_path, rollouts({500: 1, 1000: 2, 1500: 4}), finished=[500, 1000])
    assert list(candidates(tmp_path)) == [1000, 1500, 2000]
    prune(tmp_path, rollouts({500: 1, 1000: 2, 1500: 4}), finished=[500, 1000, 1500])
    assert list(candidates(tmp_path)) == [1500, 2000]


def test_exporting_twice_is_exporting_once(tmp_path):
    write_candidate(tmp_path / "candidates", 500)
    write_json(tmp_path / "model/blm.json", {"provenance": {"step": 100}})  # of an attempt before
    for _ in range(2):
        export(tmp_path / "candidates", 500, tmp_path / "model")
    assert '"step": 500' in (tmp_path / "model/blm.json").read_text()
    with pytest.raises(UserError, match="step-001000 is missing"):
        export(tmp_path / "candidates", 1000, tmp_path / "model")


def test_rollouts_beside_training_need_a_gpu_of_their_own():
    check_place(ResourceConfig())
    check_place(ResourceConfig(device="cuda", num_gpus=2, train_workers=1))
    with pytest.raises(UserError, match=r"needs a GPU beside the 2 of training"):
        check_place(ResourceConfig(device="cuda", num_gpus=2, train_workers=2))


def test_a_judge_that_is_left_early_ends(ray_cluster, stage_context):
    with Judge(Stage2Config(rollouts_every=5), stage_context("stage2"), []) as judge:
        pass
    assert not judge._thread.is_alive()
    with Judge(Stage2Config(rollouts_every=5), stage_context("stage2"), []) as judge:
        assert judge.finish() == []
