"""The data doctor: our own datasets are sound, and every kind of damage that is planted is found and named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_damage import DAMAGES, DATA, META, Damage, cut, edit_picture
from small_demonstrations import CELLS, collect_sways, render_sways

from blm.actors.sim.episode import read_episodes, write_episodes
from blm.actors.sim.world import parse_cell
from blm.pipelines.inspection.findings import Finding
from blm.pipelines.inspection.run import find_sources, inspect_source
from blm.pipelines.render import RenderConfig

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as collect leaves it, with five episodes of two cells."""
    return collect_sways(tmp_path_factory.mktemp("collect"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, collected: Path) -> Path:
    """A dataset as render leaves it, pictures as JPEG in Parquet."""
    return render_sways(
        tmp_path_factory.mktemp("render") / "panda", collected, RenderConfig(image_format="jpeg", chunk=4)
    )


@pytest.fixture(scope="module")
def clean_video(tmp_path_factory: pytest.TempPathFactory, collected: Path) -> Path:
    """The same with pictures as MP4."""
    return render_sways(tmp_path_factory.mktemp("video") / "panda", collected, RenderConfig(storage="video", chunk=4))


# ------------------------------------------------------------------------------------------------------ what is sound


def faults(findings: list[Finding]) -> list[Finding]:
    return [one for one in findings if one.severity != "ok"]


def test_a_dataset_of_ours_is_sound(clean: Path) -> None:
    found = inspect_source(clean, n_samples=0)
    assert faults(found.findings) == []
    assert len(found.findings) == 15  # every check was made
    assert [(row.cell, row.episodes, row.frames) for row in found.cells] == [(cell, 5, 105) for cell in CELLS]
    assert {row.instructions for row in found.cells} == {3}
    assert all(row.object_spread_cm is not None and row.object_spread_cm > 0.5 for row in found.cells)
    arm, gripper = found.lags
    assert (arm.kind, gripper.group) == ("absolute", "panda gripper")
    assert 0.5 < arm.frames < 2.5
    assert arm.seconds == pytest.approx(arm.frames / 10, abs=0.002)


def test_pictures_in_videos_are_sound_too(clean_video: Path) -> None:
    assert faults(inspect_source(clean_video, n_samples=0).findings) == []


def test_collected_demonstrations_are_sound(collected: Path) -> None:
    found = inspect_source(collected)
    assert faults(found.findings) == []
    assert [(row.cell, row.first_plan, row.disturbed, row.success) for row in found.cells] == [
        (cell, 0.6, 0.0, 1.0) for cell in CELLS
    ]


def test_every_dataset_below_a_folder_is_found(clean: Path, collected: Path, tmp_path: Path) -> None:
    shutil.copytree(collected, tmp_path / "collect-1")
    shutil.copytree(clean, tmp_path / "render-2/lerobot/panda")
    shutil.copytree(clean, tmp_path / "render-2/lerobot/.tmp-panda-1234")
    assert find_sources(tmp_path) == [tmp_path / "collect-1", tmp_path / "render-2/lerobot/panda"]


def test_a_dataset_of_others_is_read_whatever_its_features(tmp_path: Path) -> None:
    (tmp_path / "meta/episodes/chunk-000").mkdir(parents=True)
    (tmp_path / "data/chunk-000").mkdir(parents=True)
    n = 30
    time_s = np.arange(n) / 30
    table = {
        "observation.state": pa.array(np.cumsum(np.sin(time_s[:, None] * [3, 5]), axis=0).tolist()),
        "action": pa.array(np.sin(time_s[:, None] * [3, 5] + 0.1).tolist()),
        "observation.effort": pa.array(np.random.default_rng(0).normal(size=(n, 3)).tolist(), pa.list_(pa.float32())),
        "remark": pa.array(["a"] * n),
        "timestamp": pa.array(time_s.astype(np.float32)),
        **{name: pa.array(np.arange(n)) for name in ("frame_index", "index")},
        **{name: pa.array(np.zeros(n, np.int64)) for name in ("episode_index", "task_index")},
    }
    pq.write_table(pa.table(table), tmp_path / DATA)
    pq.write_table(pa.table({"episode_index": [0], "tasks": [["wipe the table"]], "length": [n]}), tmp_path / META)
    tasks = pa.table({"task_index": [0], "task": ["wipe the table"]}).replace_schema_metadata({"pandas": "{}"})
    pq.write_table(tasks, tmp_path / "meta/tasks.parquet")
    kinds = {"observation.state": "float64", "action": "float64", "observation.effort": "float32", "remark": "string"}
    shapes = {"observation.state": [2], "action": [2], "observation.effort": [3]}
    features = {
        name: {"dtype": kinds.get(name, "float32" if name == "timestamp" else "int64"), "shape": shapes.get(name, [1])}
        for name in table
    }
    info = {
        "codebase_version": "v3.0",
        "fps": 30,
        "robot_type": "wiper",
        "total_episodes": 1,
        "total_frames": n,
        "total_tasks": 1,
    }
    (tmp_path / "meta/info.json").write_text(json.dumps(info | {"features": features}))
    found = inspect_source(tmp_path)
    assert [(one.check, one.severity) for one in faults(found.findings)] == [("statistics", "warning")]  # it has none
    assert [row.cell for row in found.cells] == ["wipe the table"]
    assert found.lags[0].kind == "relative"


# --------------------------------------------------------------------------------------------------------- the damage


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_damage_is_found(damage: Damage, clean: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(clean, tmp_path / "panda"))
    damage.do(root)
    findings = inspect_source(root, n_samples=0).findings
    right = [one.text() for one in findings if (one.check, one.severity) == (damage.check, damage.severity)]
    assert any(damage.words in text for text in right), faults(findings)


def test_sampled_pictures_are_the_same_every_time_and_cut_ones_are_always_found(clean: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(clean, tmp_path / "panda"))
    edit_picture(root, 25, lambda b: b[:400])
    twice = [inspect_source(root, n_samples=10).findings for _ in range(2)]
    assert twice[0] == twice[1]
    assert [one.check for one in faults(twice[0])] == ["pictures"]


@pytest.mark.parametrize(("keep", "words"), [(0.5, "not readable as a video"), (0.0, "not readable as a video")])
def test_a_damaged_video_is_named(keep: float, words: str, clean_video: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(clean_video, tmp_path / "panda"))
    video = next(root.rglob("*.mp4"))
    cut(root, str(video.relative_to(root)), keep)
    text = " ".join(one.text() for one in faults(inspect_source(root).findings))
    assert words in text or "not every frame is in the video" in text or "lasts" in text
    assert video.name in text


def test_damage_among_collected_episodes_is_found(collected: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(collected, tmp_path / "collect"))
    pick, push = (next((root / "episodes" / parse_cell(cell).slug).glob("*.parquet")) for cell in CELLS)
    episodes = read_episodes(push)
    episodes[2].actions[7, 3] = np.nan
    write_episodes(push, [*episodes[:3], episodes[0]])  # seed 3 is gone, seed 0 there twice
    cut(root, str(pick.relative_to(root)))
    shutil.copy(next((root / "outcomes/panda-PickCube").glob("*.json")), root / "outcomes/panda-PickCube/seeds-9.json")
    text = "\n".join(f"{one.check} {one.text()}" for one in faults(inspect_source(root).findings))
    assert f"files not readable as episodes (cut short or overwritten): {pick.relative_to(root)}" in text
    assert "files outcomes without their episodes: outcomes/panda-PickCube/seeds-9.json" in text
    assert "finite action is not a number: panda/PushCube seed 2 frame 7" in text
    assert "duplicates the same cell and seed: panda/PushCube seed 0 = panda/PushCube seed 0" in text
    assert "totals kept, say the outcomes, but not there" in text
