"""LeRobotDataset v3.0: what is written is what is read, by this project and by the `lerobot` package."""

import json
import os
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_lerobot import CAMERA, FEATURES, LENGTHS, make_dataset, make_episode, make_video_dataset, shades

from blm.model.errors import UserError
from blm.pipelines.datasets.lerobot import LeRobotDataset
from blm.pipelines.datasets.lerobot_schema import Feature
from blm.pipelines.datasets.lerobot_stats import picture_histogram, picture_stats, vector_stats
from blm.pipelines.datasets.lerobot_writer import EpisodeFrames, write_lerobot
from blm.pipelines.datasets.parquet import read_table

ROOT = Path(__file__).parent.parent


def test_reader_returns_what_was_written(tmp_path):
    written = make_dataset(tmp_path / "panda")
    dataset = LeRobotDataset(tmp_path / "panda")
    assert (dataset.fps, dataset.robot_type, dataset.cameras, dataset.n_frames) == (
        10,
        "panda",
        ("front",),
        16,
    )
    for meta, episode in zip(dataset.episodes, written, strict=True):
        frames = dataset.read(meta)
        for name in episode.values:
            expected = episode.values[name].reshape(episode.length, *FEATURES[name].shape)
            np.testing.assert_array_equal(dataset.values(frames, name), expected)
        assert dataset.encoded_pictures(frames, "front") == episode.pictures[CAMERA]
        assert dataset.pictures(frames, "front").shape == (episode.length, 28, 28, 3)
        assert meta.task == episode.task
        assert meta.extra == episode.extra
        np.testing.assert_allclose(dataset.values(frames, "timestamp")[:, 0], np.arange(episode.length) / 10, rtol=1e-6)
    indices = [dataset.values(dataset.read(e, ["index"]), "index")[:, 0] for e in dataset.episodes]
    np.testing.assert_array_equal(np.concatenate(indices), np.arange(16))


def test_files_follow_the_format(tmp_path):
    make_dataset(tmp_path)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"], info["total_tasks"]) == (
        "v3.0",
        3,
        16,
        2,
    )
    assert list(info["features"])[-5:] == ["timestamp", "frame_index", "episode_index", "index", "task_index"]
    data = pq.ParquetFile(tmp_path / "data/chunk-000/file-000.parquet")
    assert [data.metadata.row_group(i).num_rows for i in range(data.num_row_groups)] == list(LENGTHS)
    assert data.schema_arrow.names == list(info["features"])
    tasks = pq.read_table(tmp_path / "meta/tasks.parquet").to_pandas()
    assert tasks.index.name == "task"
    assert tasks.iloc[1].name == "push the cube"
    assert tasks.loc["push the cube"].task_index == 1
    episodes = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet")
    assert str(episodes.schema.field("stats/next.success/min").type) == "list<element: double>"
    assert str(episodes.schema.field("stats/frame_index/max").type) == "list<element: double>"


def test_statistics_are_exact(tmp_path):
    written = make_dataset(tmp_path)
    stats = LeRobotDataset(tmp_path).stats()
    state = np.concatenate([e.values["observation.state"] for e in written]).astype(np.float64)
    np.testing.assert_allclose(stats["observation.state"]["std"], state.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats["observation.state"]["q10"], np.quantile(state, 0.1, axis=0), rtol=1e-12)
    assert stats["next.success"]["mean"].tolist() == [3 / 16]
    pixels = np.concatenate(
        [np.stack([np.asarray(Image.open(BytesIO(p))) for p in e.pictures[CAMERA]]) for e in written]
    ).reshape(-1, 3) / 255.0  # fmt: skip
    np.testing.assert_allclose(stats[CAMERA]["std"].ravel(), pixels.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(
        stats[CAMERA]["q90"].ravel(), np.quantile(pixels, 0.9, axis=0, method="lower"), rtol=1e-9
    )
    assert stats[CAMERA]["count"].tolist() == [16]
    assert stats[CAMERA]["mean"].shape == (3, 1, 1)


def test_histograms_of_parts_add_up_to_the_whole():
    pictures = make_episode(0).pictures[CAMERA]
    whole = picture_stats(picture_histogram(pictures), 5)
    halves = picture_stats(picture_histogram(pictures[:2]) + picture_histogram(pictures[2:]), 5)
    assert whole == halves


def test_statistics_of_chunks_are_those_of_their_entries():
    chunks = np.random.default_rng(0).normal(size=(5, 4, 2))
    stats = vector_stats(chunks)
    np.testing.assert_allclose(stats["mean"], chunks.mean(axis=(0, 1)))
    np.testing.assert_allclose(stats["q99"], np.quantile(chunks.reshape(20, 2), 0.99, axis=0))
    assert stats["count"] == [5]


def test_constant_values_have_zero_spread():
    stats = vector_stats(np.full((4, 2), 0.1, dtype=np.float32))
    assert stats["std"] == [0.0, 0.0]
    assert stats["q01"] == stats["q99"]


def test_full_data_files_are_followed_by_new_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("blm.pipelines.datasets.lerobot_schema.DATA_FILES_SIZE_MB", 0.001)
    written = make_dataset(tmp_path)
    assert len(list(tmp_path.glob("data/*/*.parquet"))) == 3
    dataset = LeRobotDataset(tmp_path, episodes=[2, 0])
    for meta, index in zip(dataset.episodes, (2, 0), strict=True):
        assert dataset.encoded_pictures(dataset.read(meta), "front") == written[index].pictures[CAMERA]


def test_files_whose_row_groups_are_not_episodes_are_read_too(tmp_path):
    written = make_dataset(tmp_path)
    path = tmp_path / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=6)
    dataset = LeRobotDataset(tmp_path)
    actions = dataset.values(dataset.read(dataset.episodes[1]), "action")
    np.testing.assert_array_equal(actions, written[1].values["action"])


def test_rewriting_replaces_the_dataset_and_leaves_nothing_beside_it(tmp_path):
    make_dataset(tmp_path / "panda")
    episodes = [make_episode(0)]
    write_lerobot(tmp_path / "panda", robot_type="panda", fps=10, features=FEATURES, episodes=episodes)
    assert len(LeRobotDataset(tmp_path / "panda").episodes) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["panda"]


def test_a_failing_writer_leaves_no_dataset(tmp_path):
    def episodes():
        yield make_episode(0)
        raise RuntimeError("the renderer died")

    with pytest.raises(RuntimeError, match="renderer died"):
        write_lerobot(tmp_path / "panda", robot_type="panda", fps=10, features=FEATURES, episodes=episodes())
    assert list(tmp_path.iterdir()) == []


def test_an_episode_that_does_not_fit_the_features_is_refused(tmp_path):
    features = {**FEATURES, "action": Feature(dtype="float32", shape=(9,))}
    with pytest.raises(ValueError, match=r"\(5, 2\).*\(9,\)"):
        write_lerobot(tmp_path / "a", robot_type="panda", fps=10, features=features, episodes=[make_episode(0)])
    with pytest.raises(ValueError, match="at least one episode"):
        write_lerobot(tmp_path / "a", robot_type="panda", fps=10, features=FEATURES, episodes=[])


def test_damaged_inputs_are_named(tmp_path):
    with pytest.raises(UserError, match=r"info\.json does not exist"):
        LeRobotDataset(tmp_path / "nothing")
    make_dataset(tmp_path / "panda")
    dataset = LeRobotDataset(tmp_path / "panda")
    with pytest.raises(UserError, match="3 episodes; there is no episode 7"):
        LeRobotDataset(tmp_path / "panda", episodes=[7])
    with pytest.raises(UserError, match=r"file-000\.parquet has no column wrist"):
        dataset.read(dataset.episodes[0], ["wrist"])
    data = tmp_path / "panda/data/chunk-000/file-000.parquet"
    data.write_bytes(data.read_bytes()[:200])
    with pytest.raises(UserError, match=r"file-000\.parquet is not a readable Parquet file"):
        dataset.read(dataset.episodes[0])
    with pytest.raises(UserError, match=r"file-000\.parquet is not a readable Parquet file"):
        read_table(data)


def lerobot_python() -> Path:
    """The interpreter of the conformance environment, made first if BLM_LEROBOT=1 asks for it."""
    python = ROOT / ".venv-lerobot/bin/python"
    if not (ROOT / ".venv-lerobot/.blm-ready").exists():
        if os.environ.get("BLM_LEROBOT") != "1":
            pytest.skip(
                "no .venv-lerobot: `make lerobot-check` makes it (needs the package registry, 280 MB) and runs this"
            )
        subprocess.run(["bash", str(ROOT / "cluster/setup/lerobot_env.sh")], check=True)
    return python


@pytest.mark.slow
def test_lerobot_package_opens_our_dataset(tmp_path):
    python = lerobot_python()
    written = {image_format: make_dataset(tmp_path / image_format, image_format) for image_format in ("PNG", "JPEG")}
    written["video"] = make_video_dataset(tmp_path / "video")
    home = tmp_path / "home"
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": str(home / "lerobot")}
    done = subprocess.run(
        [str(python), str(ROOT / "tests/lerobot_check.py"), *(str(tmp_path / name) for name in written)],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    reports = [json.loads(line) for line in done.stdout.splitlines()[-3:]]
    for report, episodes in zip(reports, written.values(), strict=True):
        print(report)
        check_report(report, episodes)
    pictures = [Image.open(BytesIO(p)) for episode in written["PNG"] for p in episode.pictures[CAMERA]]
    means = [np.asarray(picture).mean() / 255.0 for picture in pictures]
    assert reports[0]["picture_means"] == pytest.approx(means, abs=1e-5)
    means = [picture.mean() / 255.0 for index in range(3) for picture in shades(index)]
    assert reports[2]["picture_means"] == pytest.approx(means, abs=0.015)  # from frame to frame they differ by 0.047
    assert [report["codec"] for report in reports] == [None, None, "h264"]


def check_report(report: dict, written: list[EpisodeFrames]) -> None:
    """What `lerobot` read is what was written: indexing, action windows, episode filter, DataLoader, statistics."""
    first, second, last = written
    assert (report["frames"], report["episodes"], report["fps"], report["robot_type"]) == (16, 3, 10, "panda")
    assert report["camera_keys"] == [CAMERA]
    assert report["loader_saw"] == list(range(16))
    assert report["second_episode_frames"] == second.length
    assert (report["task_of_first"], report["task_of_last"]) == ("pick the cube", "pick the cube")
    np.testing.assert_allclose(report["state_of_last"], last.values["observation.state"][-1], rtol=1e-6)
    assert report["picture_shape"] == [3, 28, 28]
    np.testing.assert_allclose(report["chunk_of_first"], first.values["action_chunk"][0], rtol=1e-6)
    assert report["chunk_is_pad_of_last"] == last.values["action_chunk_is_pad"][-1].tolist()
    assert report["success_of_last"] is True
    action = first.values["action"]
    np.testing.assert_allclose(report["window"], [action[-1]] * 3, rtol=1e-6)
    assert report["window_is_pad"] == [False, True, True]
    assert report["batch_chunk_shape"][1:] == [4, 2]
    state = np.concatenate([e.values["observation.state"] for e in written])
    np.testing.assert_allclose(report["stats_state_std"], state.std(axis=0), rtol=1e-5)
    assert np.shape(report["stats_picture_std"]) == (3, 1, 1)
    assert report["extra_columns"] == first.extra
