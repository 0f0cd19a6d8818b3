"""Anybody's LeRobot dataset is asked about as far as its columns tell, and what is answered is true."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_dataset import write_dataset
from small_foreign import encoded, load, read_all, records

from blm.model.errors import UserError
from blm.pipelines.datasets.chat import ChatRow
from blm.pipelines.datasets.episode_views import EPISODE_CATEGORIES
from blm.pipelines.datasets.lerobot import LeRobotDataset
from blm.pipelines.datasets.lerobot_schema import Feature, image_feature
from blm.pipelines.datasets.lerobot_stats import picture_histogram
from blm.pipelines.datasets.lerobot_video import encode_segment
from blm.pipelines.datasets.lerobot_writer import EpisodeFrames, write_lerobot
from blm.pipelines.datasets.questions import position_words
from blm.pipelines.datasets.readers import lerobot
from blm.pipelines.datasets.readers.detect import detect
from blm.pipelines.datasets.readers.record import Options, Rejected

SIDE, FRAMES, EPISODES = 32, 24, 12
TASKS = ("open the drawer", "fold the towel", "water the plant")
CAMERA = "observation.images.top"


def picture(episode: int, frame: int) -> np.ndarray:
    """Grey that tells the frame, in red what tells the episode."""
    field = np.full((SIDE, SIDE, 3), 4 + 8 * frame, dtype=np.uint8)
    field[..., 0] = 20 * episode
    return field


def shown(data: bytes) -> tuple[int, int]:
    """Episode and frame of a picture."""
    red, green, _ = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3).mean(axis=0)
    return round(float(red) / 20), round((float(green) - 4) / 8)


def write_foreign(root: Path, *, video: bool = False, gripper: str = "gripper_width") -> Path:
    """Episodes whose gripper closes in the middle, every other one with an arm that never moves before that."""
    features = {
        CAMERA: image_feature(SIDE, video=video),
        "observation.state": Feature(dtype="float32", shape=(2,), names=("joint", gripper)),
    }
    episodes = []
    for number in range(EPISODES):
        pictures = [picture(number, frame) for frame in range(FRAMES)]
        state = np.stack([np.linspace(0, 1, FRAMES), np.where(np.arange(FRAMES) < FRAMES // 2, 0.08, 0.0)], axis=1)
        stored = [encoded(one, "PNG") for one in pictures]
        episodes.append(
            EpisodeFrames(
                task=TASKS[number % len(TASKS)],
                values={"observation.state": state.astype(np.float32)},
                pictures={} if video else {CAMERA: stored},
                histograms={CAMERA: picture_histogram(stored)},
                videos={CAMERA: encode_segment(pictures, 10)} if video else {},
            )
        )
    write_lerobot(root, robot_type="someone's arm", fps=10, features=features, episodes=episodes)
    lerobot.open_dataset.cache_clear()
    return root


def rows_of(root: Path, questions: int = 5) -> list[ChatRow]:
    rows = [
        load(record, root, fps=0, max_frames=6)
        for record in records(root, "lerobot", options=Options(questions=questions))
    ]
    assert all(isinstance(row, ChatRow) for row in rows), rows
    return rows


@pytest.mark.parametrize("video", [False, True])
def test_what_is_asked_about_foreign_episodes_is_true(tmp_path: Path, video: bool) -> None:
    rows = rows_of(write_foreign(tmp_path / "arm", video=video))
    assert detect(tmp_path / "arm").format == "lerobot"
    seen: dict[str, set[str]] = {}
    for row in rows:
        question, answer = row.messages[0]["text"], row.messages[1]["text"]
        episode, steps = row.meta["episode"], row.meta.get("steps")
        seen.setdefault(row.category, set()).add(answer)
        for data in (*row.images, *(frame for clip in row.videos for frame in clip.frames)):
            assert shown(data)[0] == episode
        if steps:
            assert [shown(data)[1] for data in row.images] == steps
        else:
            frames = [shown(frame)[1] for frame in row.videos[0].frames]
            assert (frames[0], frames[-1], len(frames)) == (0, FRAMES - 1, 6)
            assert row.videos[0].fps == pytest.approx(5 / 2.3)
        if row.category == "instruction":
            assert answer == TASKS[episode % 3]
        elif row.category == "which_instruction":
            assert f"({answer}) {TASKS[episode % 3]}\n" in question
            assert len(re.findall(r"^\([A-D]\) ", question, re.MULTILINE)) == 3
        elif row.category == "order":
            assert answer == ("the second" if steps[1] > steps[0] else "the first")
        elif row.category == "gripper_moves":
            assert answer == ("yes" if (steps[0] < FRAMES // 2) != (steps[1] < FRAMES // 2) else "no")
        elif row.category == "gripper":
            assert answer == ("open" if steps[0] < FRAMES // 2 else "closed")
    assert seen["order"] == {"the first", "the second"}
    assert seen["gripper"] == {"open", "closed"}
    assert seen["gripper_moves"] == {"yes", "no"}
    assert len(seen["which_instruction"]) > 1


def test_a_gripper_of_unknown_sign_is_not_called_open(tmp_path: Path) -> None:
    categories = {row.category for row in rows_of(write_foreign(tmp_path / "arm", gripper="gripper_position"))}
    assert categories == {"instruction", "which_instruction", "order", "gripper_moves"}
    categories = {row.category for row in rows_of(write_foreign(tmp_path / "hand", gripper="finger"))}
    assert categories == {"instruction", "which_instruction", "order"}


def test_our_own_datasets_are_asked_by_our_own_generator(tmp_path: Path) -> None:
    rows = rows_of(write_dataset(tmp_path / "panda"), questions=4)
    ours = [row for row in rows if row.category in EPISODE_CATEGORIES]
    assert len(ours) >= len(rows) // 3
    assert {"discriminative_affordance_negative", "robot_identification"} <= {row.category for row in ours}
    dataset = LeRobotDataset(tmp_path / "panda")
    places = [row for row in ours if row.category == "localisation" and "gripper" in row.messages[0]["text"]]
    for row in places:
        positions = dataset.read(dataset.episodes[row.meta["episode"]], [lerobot.POSITIONS])[lerobot.POSITIONS]
        assert row.messages[1]["text"] == position_words(positions[row.meta["steps"][0]].as_py()[:3])
    assert places


def test_episodes_kept_for_testing_are_passed_over(tmp_path: Path) -> None:
    found = records(write_dataset(tmp_path / "panda", episodes=20), "lerobot")
    assert {record.meta["episode"] for record in found} == set(range(20)) - {9, 19}  # their seeds end in 9


def test_questions_follow_from_the_seed(tmp_path: Path) -> None:
    root = write_foreign(tmp_path / "arm")
    assert read_all(root, "lerobot") == read_all(root, "lerobot")
    assert read_all(root, "lerobot") != read_all(root, "lerobot", options=Options(seed=1))


def test_a_damaged_episode_costs_itself(tmp_path: Path) -> None:
    root = write_foreign(tmp_path / "arm", video=True)
    (path,) = root.glob("videos/*/*/*.mp4")
    path.write_bytes(path.read_bytes()[:2000])
    found = read_all(root, "lerobot", options=Options(questions=5))
    rows = [one if isinstance(one, Rejected) else load(one, root) for one in found]
    assert {row.reason for row in rows if isinstance(row, Rejected)} == {"video_unreadable"}
    next(root.glob("data/*/*.parquet")).write_bytes(b"PAR1")
    found = read_all(root, "lerobot")
    assert [one.reason for one in found if isinstance(one, Rejected)] == ["episode_unreadable"] * EPISODES


def test_a_dataset_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    root = write_foreign(tmp_path / "arm")
    info = json.loads((root / "meta/info.json").read_text())
    info["data_path"] = "../../" + info["data_path"]
    (root / "meta/info.json").write_text(json.dumps(info))
    lerobot.open_dataset.cache_clear()
    assert {one.reason for one in read_all(root, "lerobot") if isinstance(one, Rejected)} == {"media_outside_root"}


@pytest.mark.parametrize("damage", ['{"codebase_version": "v3.0"}', "[]", '{"codebase_version": "v2.1"}', "{"])
def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path, damage: str) -> None:
    root = write_foreign(tmp_path / "arm")
    (root / "meta/info.json").write_text(damage)
    lerobot.open_dataset.cache_clear()
    with pytest.raises(UserError, match="arm"):
        read_all(root, "lerobot")
