"""Robot datasets, ours and other people's: what they say, single pictures, and how bad ones are refused."""

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dataset import FRAMES, write_dataset
from small_robots import ALOHA_LENGTHS, PUSHT_LENGTHS, aloha, grey, pusht, use, write_aloha, write_pusht

from blm.actors.sim.world import WorldConfig
from blm.model.errors import UserError
from blm.model.layout import layout_of
from blm.pipelines.datasets.foreign import RobotSourceConfig
from blm.pipelines.datasets.lerobot import LeRobotDataset
from blm.pipelines.render import RenderConfig, render
from blm.pipelines.windows.dataset import RobotDataset, data_hash, datasets_of

FILE = "data/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("ours") / "panda", episodes=4)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """(PushT-shaped, ALOHA-shaped) dataset folders."""
    root = tmp_path_factory.mktemp("foreign")
    return write_pusht(root / "pusht"), write_aloha(root / "aloha")


def test_our_dataset_has_its_robots_layout_and_stored_chunks(ours):
    dataset, plain = RobotDataset.open(ours), LeRobotDataset(ours)
    assert (dataset.layout, dataset.groups, dataset.fps) == (layout_of("panda"), ("panda/PushCube",), 10)
    frames = plain.read(plain.episodes[2], ["action_chunk", "observation.state"])
    chunks, is_pad = dataset.chunks(dataset.episodes[2], 16)
    assert np.array_equal(chunks, plain.values(frames, "action_chunk"))
    assert np.array_equal(dataset.states(dataset.episodes[2]), plain.values(frames, "observation.state"))
    assert not is_pad[0].any()
    assert is_pad[-1].all()
    assert np.array_equal(dataset.chunks(dataset.episodes[2], 4)[0], chunks[:, :4])
    with pytest.raises(UserError, match="stores chunks of 16 actions, the policy wants 17"):
        dataset.chunks(dataset.episodes[2], 17)


def test_single_pictures_are_those_of_whole_episodes_in_any_order_and_from_threads(ours):
    dataset, plain = pickle.loads(pickle.dumps(RobotDataset.open(ours))), LeRobotDataset(ours)
    columns = [plain.read(episode, ["observation.images.front"]) for episode in plain.episodes]
    every = np.concatenate([plain.pictures(column, "front") for column in columns])
    wanted = np.random.default_rng(0).integers(0, len(every), (8, 30))
    with ThreadPoolExecutor(4) as threads:
        for frames, pictures in zip(wanted, threads.map(lambda f: dataset.pictures(f, ["front"]), wanted), strict=True):
            assert np.array_equal(pictures[:, 0], every[frames])
    with pytest.raises(UserError, match="no camera 'wrist'; it has front"):
        dataset.pictures(wanted[0], ["wrist"])


def test_a_pusht_shaped_dataset_is_read_through_its_mapping(foreign, tmp_path):
    dataset = RobotDataset.open(use(tmp_path / "pusht", pusht(foreign[0])))
    assert (dataset.layout.state_dim, dataset.layout.action_dim, dataset.layout.control_hz) == (2, 2, 10)
    assert [episode.length for episode in dataset.episodes] == list(PUSHT_LENGTHS)
    assert dataset.groups == ("pusht/Push the T-shaped block onto the T-shaped target.",)
    chunks, is_pad = dataset.chunks(dataset.episodes[1], 4)
    assert chunks[0, :, 0].tolist() == [101, 102, 103, 104]
    assert chunks[-2, :, 0].tolist() == [113, 114, 114, 114]
    assert is_pad[-2].tolist() == [False, False, True, True]
    frames = np.array([30, 3, 9 + 13, 4, 5])
    pictures = dataset.pictures(frames, ["front"])
    assert pictures.shape == (5, 1, 32, 32, 3)
    expected = [grey(2, 30 - 23), grey(0, 3), grey(1, 13), grey(0, 4), grey(0, 5)]
    assert np.abs(pictures.mean(axis=(1, 2, 3, 4)) - expected).max() < 2
    assert dataset.instruction_of(frames)[0].startswith("Push the T")


def test_an_aloha_shaped_dataset_acts_on_every_second_frame(foreign, tmp_path):
    state = ("observation.state[0:6]", "action[13]")
    config = aloha(foreign[1], instruction="put the peg into the hole", state=state, relative_to=())
    dataset = RobotDataset.open(use(tmp_path / "aloha", config))
    assert dataset.layout.state_names[-2:] == ("observation.state.5", "action.13")
    actions = LeRobotDataset(foreign[1]).values(
        LeRobotDataset(foreign[1]).read(dataset._meta(dataset.episodes[0])), "action"
    )
    chunks, _ = dataset.chunks(dataset.episodes[0], 3)
    assert np.array_equal(chunks[2], actions[[2, 4, 6]])
    assert dataset.futures(np.array([0, 10, 12]), 3).tolist() == [6, 11, 18]
    assert np.allclose(dataset.states(dataset.episodes[0])[:, 6], actions[:, 13])
    assert dataset.instruction_of(np.array([0])) == ["put the peg into the hole"]
    pictures = dataset.pictures(np.array([ALOHA_LENGTHS[0] + 2]), ["front"])
    assert (pictures == grey(1, 2)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": ("actions",)}, "no column 'actions'; did you mean 'action'"),
        ({"state": ("observation.state[0:3]",)}, "goes beyond the 2 values"),
        ({"state": ("observation.image",)}, "is no list of numbers"),
        ({"cameras": {}}, "no column for 'front'"),
        ({"cameras": {"front": "action"}}, "holds float32, not pictures"),
        ({"cameras": {"front": "observation.image", "wrist": "observation.image"}}, "which world.cameras does not"),
        ({"control_hz": 3}, "10 frames a second are no multiple"),
        ({"relative_to": (0,)}, "1 entries for 2 actions"),
        ({"relative_to": (0, 2)}, "give 0 to 1"),
        ({"instruction_column": "action"}, "holds no text"),
        ({"name": "panda"}, "the name of a simulated robot"),
        ({"state": ("observation.state[a]",)}, "is not a column"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(foreign, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        use(tmp_path / "pusht", pusht(foreign[0], **change))


def test_nan_and_another_robots_dimensions_are_named(ours, tmp_path):
    def spoil(number, values):
        if number == 1:
            values["observation.state"][3, 1] = np.nan

    dataset = RobotDataset.open(use(tmp_path / "pusht", pusht(write_pusht(tmp_path / "nan", spoil=spoil))))
    dataset.states(dataset.episodes[0])
    with pytest.raises(UserError, match=r"nan: the state of episode 1, frame 3 holds NaN"):
        dataset.states(dataset.episodes[1])
    other = tmp_path / "xarm6"
    shutil.copytree(ours, other)
    info = (other / "meta/info.json").read_text()
    (other / "meta/info.json").write_text(info.replace('"robot_type": "panda"', '"robot_type": "xarm6"'))
    wrong = RobotDataset.open(other)
    with pytest.raises(UserError, match="has actions of 8 numbers, xarm6 has 7"):
        wrong.chunks(wrong.episodes[0], 16)


def test_missing_columns_and_datasets_without_episodes_are_told(ours, tmp_path):
    broken = tmp_path / "panda"
    shutil.copytree(ours, broken)
    data = pq.read_table(broken / FILE).drop_columns(["observation.state"])
    pq.write_table(data, broken / FILE)
    dataset = RobotDataset.open(broken)
    with pytest.raises(UserError, match=r"file-000\.parquet has no column observation\.state"):
        dataset.states(dataset.episodes[0])
    meta = broken / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(meta).slice(0, 0), meta)
    with pytest.raises(UserError, match="holds no demonstrations of panda"):
        RobotDataset.open(broken)


def test_a_picture_that_cannot_be_decoded_names_its_episode(ours, tmp_path):
    broken = tmp_path / "panda"
    shutil.copytree(ours, broken)
    table = pq.read_table(broken / FILE)
    column = table["observation.images.front"].to_pylist()
    column[FRAMES + 1] = {"bytes": b"no picture", "path": None}
    place = table.column_names.index("observation.images.front")
    spoilt = pa.array(column, table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), spoilt), broken / FILE, row_group_size=FRAMES)
    dataset = RobotDataset.open(broken)
    assert dataset.pictures(np.array([0, FRAMES]), ["front"]).shape[0] == 2
    with pytest.raises(UserError, match="a picture of episode 1 cannot be read"):
        dataset.pictures(np.array([FRAMES + 1]), ["front"])


def test_the_hash_of_a_foreign_dataset_follows_its_data_and_its_mapping(foreign, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(foreign[0], copy)
    folder = use(tmp_path / "pusht", pusht(copy))
    before = data_hash(folder)
    assert data_hash(use(tmp_path / "again" / "pusht", pusht(copy))) == before
    assert data_hash(use(tmp_path / "other" / "pusht", pusht(copy, relative_to=()))) != before
    video = copy / "videos/observation.image/chunk-000/file-000.mp4"
    video.write_bytes(video.read_bytes()[:-1] + b"x")
    assert data_hash(folder) != before


def test_the_render_stage_takes_foreign_datasets_and_checks_every_number(foreign, tmp_path, stage_context):
    (tmp_path / "collect/episodes").mkdir(parents=True)
    world = WorldConfig(cells=("panda/PushCube",), cameras=("front",), image_px=32)
    context = stage_context("render", inputs={"collect": tmp_path / "collect"}, world=world)
    summary = render(RenderConfig(sources=(pusht(foreign[0]), aloha(foreign[1]))), context)
    assert summary["datasets"] == {"pusht": {"episodes": 3, "frames": 34}, "aloha": {"episodes": 2, "frames": 20}}
    assert list(datasets_of(context.out)) == ["aloha", "pusht"]

    def spoil(number, values):
        values["action"][0, 0] = np.nan

    bad = RenderConfig(sources=(pusht(write_pusht(tmp_path / "bad", spoil=spoil)),))
    with pytest.raises(UserError, match="the action of episode 0, frame 0 holds NaN or infinite"):
        render(bad, context)
    with pytest.raises(UserError, match="two robots named pusht"):
        RenderConfig(sources=(RobotSourceConfig(name="pusht", root=tmp_path),) * 2)
