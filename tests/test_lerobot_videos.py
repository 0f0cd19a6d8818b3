"""Videos of LeRobotDatasets: frames are found by their time, files follow the format, damage is named."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_lerobot import CAMERA, make_video_dataset, shades

from blm.model.errors import UserError
from blm.pipelines.datasets.lerobot import LeRobotDataset
from blm.pipelines.datasets.lerobot_video import decode_frames


def test_frames_of_videos_are_found_by_their_time(tmp_path):
    make_video_dataset(tmp_path / "panda")
    dataset = LeRobotDataset(tmp_path / "panda", episodes=[2, 0, 1])
    for meta in dataset.episodes:
        frames = dataset.read(meta, ["action", CAMERA])
        assert frames.column_names == ["action", CAMERA]
        assert dataset.encoded_pictures(frames, "front")[0].startswith(b"\x89PNG")
        pictures = dataset.pictures(frames, "front").astype(int)
        assert np.abs(pictures - np.stack(shades(meta.index))).max() <= 6
    assert set(dataset.read(dataset.episodes[0]).column_names) == set(dataset.features)
    numbers = dataset.read(dataset.episodes[0], ["action"])
    np.testing.assert_array_equal(dataset.values(numbers, "action").shape, (4, 2))


def test_video_files_follow_the_format(tmp_path):
    make_video_dataset(tmp_path)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert info["video_path"] == "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    feature = info["features"][CAMERA]
    assert (feature["dtype"], feature["info"]["video.codec"], feature["info"]["video.fps"]) == ("video", "h264", 10)
    assert (tmp_path / f"videos/{CAMERA}/chunk-000/file-000.mp4").exists()
    assert CAMERA not in pq.read_schema(tmp_path / "data/chunk-000/file-000.parquet").names
    episodes = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pydict()
    assert episodes[f"videos/{CAMERA}/file_index"] == [0, 0, 0]
    assert episodes[f"videos/{CAMERA}/from_timestamp"] == [0.0, 0.5, 1.2]
    assert episodes[f"videos/{CAMERA}/to_timestamp"] == [0.5, 1.2, 1.6]


def test_full_video_files_are_followed_by_new_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("blm.pipelines.datasets.lerobot_schema.VIDEO_FILES_SIZE_MB", 0.0001)
    make_video_dataset(tmp_path)
    assert len(list(tmp_path.glob("videos/*/*/*.mp4"))) == 3
    dataset = LeRobotDataset(tmp_path)
    for meta in dataset.episodes:
        pictures = dataset.pictures(dataset.read(meta, [CAMERA]), "front").astype(int)
        assert np.abs(pictures - np.stack(shades(meta.index))).max() <= 6


def test_the_same_pictures_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        make_video_dataset(tmp_path / name)
    one, two = ((tmp_path / name / f"videos/{CAMERA}/chunk-000/file-000.mp4").read_bytes() for name in ("one", "two"))
    assert one == two


def test_damaged_and_missing_videos_are_named(tmp_path):
    make_video_dataset(tmp_path)
    dataset = LeRobotDataset(tmp_path)
    video = tmp_path / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    with pytest.raises(UserError, match=r"file-000\.mp4 has no frame at 1\.600 s"):
        decode_frames(video, from_timestamp=1.2, length=6, fps=10)
    video.write_bytes(b"no video")
    with pytest.raises(UserError, match=r"file-000\.mp4 is not a readable video"):
        dataset.read(dataset.episodes[0])
    assert dataset.read(dataset.episodes[0], ["action"]).num_rows == 5
    video.unlink()
    with pytest.raises(UserError, match=r"file-000\.mp4 does not exist"):
        dataset.read(dataset.episodes[0])
