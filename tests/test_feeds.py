"""Feeds: batches hold the windows they are asked for, the same ones for any number of workers, and errors come out."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from small_dataset import write_dataset
from small_robots import pusht, use, write_pusht

from blm.model.augment import AugmentConfig, augment
from blm.model.errors import UserError
from blm.pipelines.datasets.foreign import read_source
from blm.pipelines.windows import picture_feed
from blm.pipelines.windows.dataset import RobotDataset
from blm.pipelines.windows.feed import PolicyFeed, _joined, draw_variants
from blm.pipelines.windows.index import WindowIndex
from blm.pipelines.windows.picture_feed import PictureFeed
from blm.pipelines.windows.sources import LiveIntents, Variant
from blm.pipelines.windows.statistics import statistics_of
from blm.pipelines.windows.store import open_windows, prepare_windows

CPU = torch.device("cpu")
ROBOTS = {"panda": 1, "pusht": 2}


class NumberedIntents:
    """Intents that say which frame of which robot they are of, and in which variant."""

    tokens, width, n_phrasings, n_augmentations, threads = 3, 4, 2, 5, 2

    def get(self, robot: str, frames: np.ndarray, variant: Variant) -> tuple[torch.Tensor, torch.Tensor]:
        said = np.stack([np.full(len(frames), ROBOTS[robot]), frames, variant.phrasing, variant.augmentation], axis=1)
        states = torch.from_numpy(said).to(torch.bfloat16)[:, None].repeat(1, self.tokens, 1)
        return states, torch.ones(len(frames), self.tokens, dtype=torch.bool)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(datasets, index, statistics) of two robots of 34 and 48 frames."""
    root = tmp_path_factory.mktemp("feeds")
    datasets = {
        "panda": write_dataset(root / "panda", episodes=4),
        "pusht": use(root / "pusht", pusht(write_pusht(root / "data")), image_px=56),
    }
    prepare_windows(datasets, root / "windows", chunk=4, workers=0)
    windows = open_windows(root / "windows", datasets)
    return datasets, WindowIndex(windows), statistics_of(windows)


def rows_of(batch):
    """(robot, frame) of each row, from what its intents say."""
    return [(int(robot), int(frame)) for robot, frame, _, _ in batch.intents[:, 0].tolist()]


def test_a_batch_holds_its_rows_with_their_intents_normalised_and_grouped_by_robot(data):
    _, index, statistics = data
    feed = PolicyFeed(index, statistics, NumberedIntents())
    rows = index.train_rows[[40, 3, 35, 7]]
    batch = feed.batch(rows)
    robots, frames = index.locate(rows)
    order = batch.place.numpy()
    assert rows_of(batch) == [(int(robots[i]) + 1, int(frames[i])) for i in order]
    assert [group.embodiment for group in batch.groups] == ["panda", "pusht"]
    first = 0
    for robot, group in zip(index.windows, batch.groups, strict=True):
        here = frames[order[first : first + len(group.state)]]
        assert torch.equal(group.state, torch.from_numpy(statistics[robot.name].state.normalize(robot.state[here])))
        assert torch.equal(group.actions, torch.from_numpy(statistics[robot.name].action.normalize(robot.chunk[here])))
        assert torch.equal(group.is_pad, torch.from_numpy(robot.is_pad[here]))
        future = batch.future_intents[first : first + len(group.state), 0, 1]
        assert future.tolist() == robot.future[here].tolist()
        first += len(group.state)
    assert not batch.intents[:, :, 2:].any()  # without a step, frames are seen as they are
    assert PolicyFeed(index, statistics, NumberedIntents(), future=False).batch(rows).future_intents is None


def test_joining_robots_starts_no_threads_beside_those_of_training():
    parts = [(torch.zeros(64, 64, 192, dtype=torch.bfloat16), torch.ones(64, 64, dtype=torch.bool)) for _ in range(2)]
    threads = torch.get_num_threads()

    def joined() -> int:
        before = len(list(Path("/proc/self/task").iterdir()))
        states, mask = _joined(parts)
        assert states.shape == (128, 64, 192)
        assert mask.all()
        return len(list(Path("/proc/self/task").iterdir())) - before

    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1) as feed:  # a thread of its own, as training has it: OpenMP's teams belong to threads
            assert feed.submit(joined).result() == 0
    finally:
        torch.set_num_threads(threads)


def test_two_workers_see_together_what_one_sees_and_a_resumed_run_what_it_would_have_seen(data):
    _, index, statistics = data
    feed = PolicyFeed(index, statistics, NumberedIntents())
    given = {"batch": 10, "seed": 3, "temperature": 0.5}

    def seen(batch):
        """Place -> everything about the row."""
        states = [tuple(row.tolist()) for group in batch.groups for row in group.state]
        intents = zip(batch.intents.flatten(1).tolist(), batch.future_intents.flatten(1).tolist(), strict=True)
        return dict(zip(batch.place.tolist(), zip(states, intents, strict=True), strict=True))

    alone = index.share(**given)
    whole = [seen(batch) for batch in feed.steps(alone, 0, 6, device=CPU)]
    assert [seen(batch) for batch in feed.steps(alone, 4, 6, device=CPU)] == whole[4:]
    for world in (2, 3):
        shares = [feed.steps(index.share(rank=rank, world=world, **given), 0, 6, device=CPU) for rank in range(world)]
        for step, parts in enumerate(zip(*shares, strict=True)):
            joined = {place: row for part in parts for place, row in seen(part).items()}
            assert joined == whole[step]
    variants = {intent[2:4] for batch in whole for _, (row, _) in batch.values() for intent in [tuple(row)]}
    assert len(variants) > 6  # both phrasings, and most augmentations


def test_variants_cover_all_phrasings_and_augmentations_and_follow_from_the_step():
    place = np.arange(4000)
    phrasing, augmentation = draw_variants(place, 5, 0, phrasings=3, augmentations=2)
    assert np.bincount(phrasing).min() > 1200
    assert np.bincount(augmentation).min() > 1200
    again = draw_variants(place[7::2], 5, 0, phrasings=3, augmentations=2)
    assert np.array_equal(again[0], phrasing[7::2])
    assert np.array_equal(again[1], augmentation[7::2])
    assert not draw_variants(place, None, 0, phrasings=3, augmentations=2)[1].any()


def test_live_intents_are_the_models_own_and_change_with_pictures_and_words(data, tiny_mllm):
    from blm.model.intents import IntentExtractor

    datasets, *_ = data
    opened = {name: RobotDataset.open(folder) for name, folder in datasets.items()}
    extractor = IntentExtractor(tiny_mllm, layer=2, max_text_tokens=64)
    live = LiveIntents(extractor, opened, ["front"], AugmentConfig(), phrase=lambda *_: "go", n_phrasings=2)
    frames = np.array([30, 2, 17])
    states, mask = live.get("panda", frames, Variant.plain(3))
    assert states.shape == (3, live.tokens, live.width)
    picture = opened["panda"].pictures(frames[1:2], ["front"])[0, 0]
    expected = extractor.encode([{"front": picture}], [opened["panda"].episodes[0].instruction])
    assert torch.allclose(states[1].float(), expected.states[0].float(), rtol=2e-2, atol=2e-2)
    assert torch.equal(mask[1], expected.mask[0])
    variant = Variant(phrasing=np.array([0, 0, 1]), augmentation=np.array([0, 77, 0]))
    other, other_mask = live.get("panda", frames, variant)
    assert torch.equal(other[0], states[0])
    assert not torch.equal(other[1], states[1])
    assert other_mask[2].sum() < mask[2].sum()
    assert torch.equal(
        live.get("panda", frames[1:2], Variant(phrasing=np.zeros(1, int), augmentation=np.array([77])))[0][0], other[1]
    )


@pytest.mark.ray
def test_ray_data_decodes_the_pictures_of_every_steps_rows_in_order(data, ray_cluster, monkeypatch, tmp_path):
    monkeypatch.setattr(picture_feed, "SEGMENT_BLOCKS", 2)
    datasets, index, statistics = data
    opened = [RobotDataset.open(folder) for folder in datasets.values()]

    def check(batch, step, rank, world):
        rows = index.step_rows(step, 10, 3, 0.5)[batch.place.numpy()]
        assert sorted(batch.place.tolist()) == list(range(rank, 10, world))
        robots, frames = index.locate(rows)
        for i, (robot, frame) in enumerate(zip(robots, frames, strict=True)):
            wanted = np.array([frame, index.windows[robot].future[frame]])
            assert np.array_equal(
                np.stack([batch.pictures[i], batch.future_pictures[i]]), opened[robot].pictures(wanted, ["front"])
            )
            assert batch.instructions[i] == opened[robot].instruction_of(wanted)[0]
        assert [len(group.state) for group in batch.groups] == [n for n in np.bincount(robots).tolist() if n]

    for tasks in (0, 2):
        feed = PictureFeed(index, statistics, datasets, ["front"], future=True, tasks=tasks)
        for rank, world, first, last in ((0, 1, 5, 75), (1, 2, 9, 12)):
            share = index.share(batch=10, seed=3, temperature=0.5, rank=rank, world=world)
            batches = list(feed.steps(share, first, last))
            assert len(batches) == last - first
            for step, batch in zip(range(first, last), batches, strict=True):
                check(batch, step, rank, world)
    video = tmp_path / "videos/observation.image/chunk-000/file-000.mp4"
    shutil.copytree(read_source(datasets["pusht"]).config.root, tmp_path, dirs_exist_ok=True)
    video.write_bytes(b"no video")
    damaged = datasets | {"pusht": use(tmp_path / "pusht", pusht(tmp_path))}
    with pytest.raises(UserError, match=r"file-000\.mp4 is not a readable video"):
        list(PictureFeed(index, statistics, damaged, ["front"]).steps(index.share(batch=10, seed=3), 0, 3))


def test_augmented_pictures_follow_from_their_seeds_alone():
    rng = np.random.default_rng(0)
    pictures = torch.from_numpy(rng.integers(0, 256, (4, 2, 20, 24, 3), dtype=np.uint8))
    seeds = np.array([0, 5, 5, 9])
    config = AugmentConfig(shift_px=3)
    changed = augment(pictures, seeds, config)
    assert changed.dtype == torch.uint8
    assert torch.equal(changed[0], pictures[0])
    assert not torch.equal(changed[3], pictures[3])
    assert torch.equal(augment(pictures[[2, 1]], seeds[[2, 1]], config), changed[[2, 1]])
    same = augment(pictures[:1].repeat(2, 1, 1, 1, 1), np.array([5, 5]), config)
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0, 0] - pictures[0, 0], same[0, 1] - pictures[0, 1])


def test_a_shift_moves_the_picture_and_repeats_its_edge():
    ramp = torch.arange(20, dtype=torch.uint8)[:, None, None].expand(20, 20, 3)[None]
    config = AugmentConfig(shift_px=4, brightness=0, contrast=0, saturation=0)
    shifts = set()
    for seed in range(1, 60):
        moved = augment(ramp, np.array([seed]), config)[0, :, 0, 0].int()
        shift = int(10 - moved[10])
        shifts.add(shift)
        assert torch.equal(moved, (torch.arange(20) - shift).clamp(0, 19).int())
    assert shifts == set(range(-4, 5))


def test_colours_change_within_their_bounds():
    grey = torch.full((30, 8, 8, 3), 100, dtype=torch.uint8)
    bright = augment(grey, np.arange(1, 31), AugmentConfig(shift_px=0, brightness=0.2, contrast=0.5, saturation=0.5))
    assert bright.amin() >= 79
    assert bright.amax() <= 121
    assert bright.float().mean(dim=(1, 2, 3)).std() > 5
    assert (bright.amax(dim=-1) - bright.amin(dim=-1)).max() <= 1  # grey stays grey
