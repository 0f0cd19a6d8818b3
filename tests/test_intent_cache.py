"""The intent cache: what it holds, when it is refused, the windows and the probe on top of it."""

import json
import shutil

import numpy as np
import pytest
import torch
from small_dataset import FRAMES, write_dataset

from blm.model.errors import UserError
from blm.model.intents import IntentExtractor
from blm.pipelines.datasets.lerobot import LeRobotDataset
from blm.pipelines.intent_cache import IntentCache, ShardWriter, write_index
from blm.pipelines.intents import IntentsConfig, cache_key
from blm.pipelines.policy_data import BatchMaker, load_windows, statistics_of
from blm.pipelines.probe import probe

CONFIG = IntentsConfig(layer=2, max_text_tokens=64)
CAMERAS = ("front",)


@pytest.fixture(scope="module")
def made(tiny_mllm, tmp_path_factory):
    """(dataset folder, cache folder) of 20 short episodes in two shards."""
    root = tmp_path_factory.mktemp("cache")
    dataset = write_dataset(root / "panda")
    worker = ShardWriter(
        model_dir=str(tiny_mllm), layer=2, max_text_tokens=64, cameras=CAMERAS, device="cpu", dtype="float32"
    )
    shards = [
        worker(
            {
                "dataset": str(dataset),
                "episodes": list(range(first, first + 10)),
                "shard": str(root / "intents" / f"s{first}.arrow"),
            }
        )
        for first in (0, 10)
    ]
    write_index(root / "intents", cache_key(CONFIG, tiny_mllm, dataset, CAMERAS), shards)
    return dataset, root / "intents"


def test_rows_are_the_extractors_states_in_any_order(made, tiny_mllm):
    dataset_dir, folder = made
    cache, dataset = IntentCache(folder), LeRobotDataset(dataset_dir)
    wanted = np.array([FRAMES * 13 + 5, 0, FRAMES * 10])
    states, mask = cache.rows(wanted)
    extractor = IntentExtractor(tiny_mllm, layer=2, max_text_tokens=64)
    for row, index in enumerate(wanted):
        episode = dataset.episodes[index // FRAMES]
        picture = dataset.pictures(dataset.read(episode, ["observation.images.front"]), "front")[index % FRAMES]
        expected = extractor.encode([{"front": picture}], [episode.task])
        assert torch.allclose(states[row].float(), expected.states[0], rtol=1e-2, atol=1e-2)  # bfloat16
        assert torch.equal(mask[row], expected.mask[0])
    assert len(cache) == 20 * FRAMES


@pytest.mark.parametrize("part", ["weights", "preprocessing", "frame"])
def test_a_stale_cache_is_refused_and_says_why(made, tiny_mllm, tmp_path, part):
    dataset, folder = made
    config, model = CONFIG, tiny_mllm
    if part == "weights":
        model = tmp_path / "model"
        shutil.copytree(tiny_mllm, model)
        weights = bytearray((model / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (model / "model.safetensors").write_bytes(weights)
    elif part == "preprocessing":
        config = IntentsConfig(layer=2, max_text_tokens=63)
    else:
        dataset = write_dataset(tmp_path / "panda", seed=1)
    reason = "data" if part == "frame" else "extractor"
    with pytest.raises(UserError, match=f"stale: its {reason} changed"):
        IntentCache(folder, cache_key(config, model, dataset, CAMERAS))


def test_a_damaged_shard_is_named(made, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(made[1], copy)
    shard = copy / "s10.arrow"
    shard.write_bytes(shard.read_bytes()[:500])
    with pytest.raises(UserError, match=r"s10.arrow cannot be read"):
        IntentCache(copy)


def test_an_incomplete_cache_is_told(made, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(made[1], copy)
    (copy / "index.json").unlink()
    with pytest.raises(UserError, match=r"index.json is missing"):
        IntentCache(copy)


def test_windows_pair_a_frame_with_the_one_a_chunk_later(made):
    dataset, folder = made
    windows = load_windows("panda", dataset, IntentCache(folder), 16)
    assert not windows.is_pad.all(axis=1).any()
    gap = windows.future - windows.frame
    last = windows.frame // FRAMES * FRAMES + FRAMES - 1
    assert ((gap == 8) | (windows.future == last)).all()
    assert (windows.future // FRAMES == windows.frame // FRAMES).all()
    episodes = windows.frame // FRAMES
    assert set(episodes[windows.held_out]) == {19}


def test_batches_are_normalised_and_carry_their_own_intents(made):
    dataset, folder = made
    cache = IntentCache(folder)
    windows = load_windows("panda", dataset, cache, 16)
    statistics = statistics_of([windows])
    data = BatchMaker([windows], statistics)
    rows = data.train_rows[[5, 40, 3]]
    batch = data.batch(rows, torch.device("cpu"))
    back = statistics["panda"].action.unnormalize(batch.groups[0].actions.numpy())
    inside = np.abs(batch.groups[0].actions.numpy()) < 1.4
    assert np.allclose(back[inside], windows.chunk[rows][inside], atol=1e-3)
    assert torch.equal(batch.intents, cache.rows(windows.frame[rows])[0].float())
    assert torch.equal(batch.future_intents, cache.rows(windows.future[rows])[0].float())


def test_another_chunk_length_or_dataset_is_refused(made, tmp_path):
    dataset, folder = made
    with pytest.raises(UserError, match="stores chunks of 16 actions, the policy wants 8"):
        load_windows("panda", dataset, IntentCache(folder), 8)
    with pytest.raises(UserError, match="intent cache has 240 frames for 120"):
        load_windows("panda", write_dataset(tmp_path / "panda", episodes=10), IntentCache(folder), 16)


def test_the_probe_reads_positions_out_of_features_that_hold_them_and_of_no_others():
    rng = np.random.default_rng(0)
    positions = rng.uniform(-0.1, 0.1, (600, 6)).astype(np.float32)
    seeing = torch.from_numpy(positions @ rng.normal(size=(6, 40)).astype(np.float32))
    blind = torch.from_numpy(rng.normal(size=(600, 40)).astype(np.float32))
    episodes = np.repeat(np.arange(60), 10)
    good, bad = (probe("c", features, positions, episodes) for features in (seeing, blind))
    assert good.object_cm < 0.3
    assert bad.object_cm > 0.8 * bad.object_spread_cm


def test_the_index_is_plain_json(made):
    index = json.loads((made[1] / "index.json").read_text())
    assert [shard["frames"] for shard in index["shards"]] == [10 * FRAMES] * 2
