"""Windows of several robots: how they are stored, their statistics, and the rows of every step."""

import numpy as np
import pytest
from small_dataset import FRAMES, write_dataset
from small_robots import PUSHT_LENGTHS, aloha, pusht, use, write_aloha, write_pusht

from blm.model.errors import UserError
from blm.model.normalize import MIN_HALF_SPREAD, Quantiles
from blm.model.transforms import relative_chunk
from blm.pipelines.datasets.lerobot import LeRobotDataset
from blm.pipelines.mixture import row_order
from blm.pipelines.windows import store
from blm.pipelines.windows.index import WindowIndex
from blm.pipelines.windows.statistics import RELATIVE_ERROR, Sketch, statistics_of
from blm.pipelines.windows.store import open_windows, prepare_windows

CHUNK = 4


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("windows")
    return {
        "aloha": use(root / "aloha", aloha(write_aloha(root / "aloha_data"))),
        "panda": write_dataset(root / "panda", episodes=20),
        "pusht": use(root / "pusht", pusht(write_pusht(root / "pusht_data"))),
    }


@pytest.fixture(scope="module")
def windows(datasets, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    prepare_windows(datasets, out, chunk=CHUNK, workers=0)
    return open_windows(out, datasets)


# ------------------------------------------------------------------------------------------------------------ windows


def test_a_window_is_its_frames_state_and_the_actions_that_follow(datasets, windows):
    panda = windows[1]
    plain = LeRobotDataset(datasets["panda"])
    frames = plain.read(plain.episodes[3], ["observation.state", "action_chunk", "action_chunk_is_pad"])
    rows = slice(3 * FRAMES, 4 * FRAMES)
    state, chunk = plain.values(frames, "observation.state"), plain.values(frames, "action_chunk")[:, :CHUNK]
    assert np.array_equal(panda.state[rows], state)
    assert np.array_equal(panda.chunk[rows], relative_chunk(chunk, state, panda.layout))
    assert np.array_equal(panda.is_pad[rows], plain.values(frames, "action_chunk_is_pad")[:, :CHUNK])
    assert panda.future[rows].tolist() == [min(i + 2, 4 * FRAMES - 1) for i in range(3 * FRAMES, 4 * FRAMES)]
    assert not panda.usable[4 * FRAMES - 1]


def test_held_out_are_whole_demonstrations(windows):
    aloha_windows, panda, pusher = windows
    assert set(np.flatnonzero(panda.held_out) // FRAMES) == {19}
    assert np.flatnonzero(pusher.held_out).tolist() == list(range(sum(PUSHT_LENGTHS[:2]), sum(PUSHT_LENGTHS)))
    assert aloha_windows.held_out.sum() == 8


def test_a_pass_that_was_killed_goes_on_and_comes_to_the_same(datasets, windows, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BLOCK_FRAMES", 3 * FRAMES)
    real, calls = store.windows_of, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(store, "windows_of", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_windows(datasets, tmp_path, chunk=CHUNK, workers=0)
    with pytest.raises(UserError, match=r"windows\.json is missing"):
        open_windows(tmp_path, datasets)
    prepare_windows(datasets, tmp_path, chunk=CHUNK, workers=0)
    assert len(calls) < 12 + 20 + 5  # finished blocks were kept
    for again, before in zip(open_windows(tmp_path, datasets), windows, strict=True):
        for name in (*store.ARRAYS, "held_out", "group"):
            assert np.array_equal(getattr(again, name), getattr(before, name)), name
    assert statistics_of(open_windows(tmp_path, datasets)) == statistics_of(windows)


def test_windows_too_short_for_the_policy_are_refused(datasets, tmp_path):
    arms = {"aloha": datasets["aloha"]}  # six actions are the most that any of its frames has before it
    prepare_windows(arms, tmp_path / "six", chunk=16, min_actions=6, workers=0)
    with pytest.raises(UserError, match="aloha has no window with 7 actions"):
        prepare_windows(arms, tmp_path / "seven", chunk=16, min_actions=7, workers=0)


# --------------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("scale", [1e-4, 1.0, 500.0])
def test_a_sketch_of_pieces_knows_quantiles_as_well_as_it_promises(scale):
    rng = np.random.default_rng(0)
    values = np.stack(
        [rng.normal(0, 1, 20_000), rng.exponential(1, 20_000) - 0.3, rng.uniform(2, 2.01, 20_000)], axis=1
    )
    values *= scale
    real = rng.random(values.shape) < [1.0, 0.5, 0.1]
    pieces = [Sketch.of(part, mask) for part, mask in zip(np.split(values, 8), np.split(real, 8), strict=True)]
    sketch = Sketch.joined([Sketch.joined(pieces[5:]), *reversed(pieces[:5])])
    whole = Sketch.of(values, real)
    assert np.array_equal(sketch.codes, whole.codes)
    assert np.array_equal(sketch.counts, whole.counts)
    assert sketch.n.tolist() == real.sum(axis=0).tolist()
    for share in (0.0, 0.01, 0.37, 0.99, 1.0):
        exact = np.array([np.quantile(values[real[:, dim], dim], share) for dim in range(3)])
        assert (np.abs(sketch.quantile(share) - exact) <= 1.01 * RELATIVE_ERROR * np.abs(exact) + 2e-6).all()


def test_statistics_are_those_of_all_training_windows_without_padding(windows):
    panda = windows[1]
    train = ~panda.held_out & panda.usable
    expected = Quantiles.of(panda.chunk[train], real=~panda.is_pad[train], min_half_spread=MIN_HALF_SPREAD)
    found = statistics_of([panda])["panda"]
    assert np.abs(np.array(found.action.low) - expected.low).max() < 1e-3
    assert np.abs(np.array(found.action.high) - expected.high).max() < 1e-3
    assert np.abs(np.array(found.state.high) - Quantiles.of(panda.state[train]).high).max() < 1e-3


def test_a_dimension_that_never_changes_becomes_zero_and_comes_back(windows):
    pusher = windows[2]
    statistics = statistics_of([pusher])["pusht"]
    state = np.asarray(pusher.state)
    assert (state[:, 1] == 250).all()
    normal = statistics.state.normalize(state)
    assert (normal[:, 1] == 0).all()
    assert normal[:, 0].std() > 0.3
    assert (statistics.state.unnormalize(normal)[:, 1] == 250).all()
    assert np.isfinite(statistics.action.normalize(np.asarray(pusher.chunk))).all()


def test_a_robot_without_training_windows_has_no_statistics(windows):
    with pytest.raises(UserError, match="aloha has no demonstrations to train on in panda/PushCube"):
        statistics_of(windows, ["panda/PushCube"])
    assert list(statistics_of(windows[1:2], ["panda/PushCube"])) == ["panda"]


# --------------------------------------------------------------------------------------------------------------- rows


def test_rows_follow_from_seed_and_step_whoever_asks(windows):
    one, other = WindowIndex(windows), WindowIndex(windows)
    for temperature in (1.0, 0.5, 0.0):
        forward = [one.step_rows(step, 16, 7, temperature) for step in range(40)]
        backward = [other.step_rows(step, 16, 7, temperature) for step in reversed(range(40))][::-1]
        assert np.array_equal(forward, backward)
        shares = [other.step_rows(3, 16, 7, temperature)[rank::2] for rank in range(2)]
        assert np.array_equal(np.stack(shares, axis=1).reshape(-1), forward[3])
        assert not np.array_equal(forward[0], one.step_rows(0, 16, 8, temperature))


def test_temperature_one_is_shuffled_epochs_and_zero_makes_groups_alike(windows):
    index = WindowIndex(windows)
    n = len(index.train_rows)
    assert np.array_equal(index.step_rows(2, 16, 0), index.train_rows[row_order(n, 32, 16, 0)])
    counts = {}
    for temperature in (1.0, 0.5, 0.0):
        rows = np.concatenate([index.step_rows(step, 50, 0, temperature) for step in range(400)])
        assert set(rows) == set(index.train_rows)
        counts[temperature] = np.bincount(index.group_of[rows], minlength=3) / len(rows)
    sizes = np.bincount(index.group_of[index.train_rows])
    assert np.abs(counts[1.0] - sizes / n).max() < 0.01
    assert np.abs(counts[0.0] - 1 / 3).max() < 0.01
    roots = np.sqrt(sizes)
    assert np.abs(counts[0.5] - roots / roots.sum()).max() < 0.01
    with pytest.raises(UserError, match=r"temperature is 1\.5"):
        index.step_rows(0, 4, 0, 1.5)


def test_cells_can_be_chosen_and_rows_found(windows):
    index = WindowIndex(windows, cells=["panda/PushCube"])
    robots, frames = index.locate(index.train_rows)
    assert set(robots) == {1}
    assert np.array_equal(frames, np.flatnonzero(windows[1].usable & ~windows[1].held_out))
    assert len(np.intersect1d(index.train_rows, index.validation_rows)) == 0
    with pytest.raises(UserError, match=r"no demonstrations of 'panda/PickCube'; did you mean 'panda/PushCube'"):
        WindowIndex(windows, cells=["panda/PickCube"])
