"""The intent cache: what it holds, in which variants, how exactly, when it is refused, and the probe on top of it."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from small_dataset import FRAMES, write_dataset
from small_intents import CONFIG, options_for, write_cache, write_datasets, write_intents

from blm.actors.sim.tasks import TASKS
from blm.model.errors import UserError
from blm.model.intents import IntentExtractor
from blm.pipelines.intent.phrasings import phrasings_of
from blm.pipelines.intent.store import ErrorSum, pack, unpack
from blm.pipelines.intent_cache import IntentCache
from blm.pipelines.intents import open_caches
from blm.pipelines.probe import probe
from blm.pipelines.windows.dataset import RobotDataset, datasets_of

CAMERAS = ("front",)
EPISODES = 20


@pytest.fixture(scope="module")
def made(tiny_mllm, tmp_path_factory) -> tuple[Path, Path]:
    """(dataset folder, cache folder) of 20 short episodes in two shards."""
    root = tmp_path_factory.mktemp("cache")
    dataset = write_dataset(root / "panda", episodes=EPISODES)
    write_cache(root / "intents", dataset, options_for(tiny_mllm))
    return dataset, root / "intents"


@pytest.fixture(scope="module")
def varied(tiny_mllm, tmp_path_factory) -> tuple[Path, IntentCache]:
    """(dataset folder, cache) of two episodes, asked in three ways, with two changed copies of every picture."""
    root = tmp_path_factory.mktemp("varied")
    dataset = write_dataset(root / "panda", episodes=2)
    _tell(dataset, TASKS["PushCube"].instructions[1])
    return dataset, write_cache(root / "intents", dataset, options_for(tiny_mllm, phrasings=3, augmentations=2))


def _tell(dataset: Path, instruction: str) -> None:
    """Let every episode of a dataset be told this instruction."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in (dataset / "meta/episodes").rglob("*.parquet"):
        table = pq.read_table(path)
        column = table.column_names.index("tasks")
        told = pa.array([[instruction]] * table.num_rows, table.schema.field("tasks").type)
        pq.write_table(table.set_column(column, "tasks", told), path)


def test_rows_are_the_extractors_states_bit_for_bit_in_any_order(made, tiny_mllm):
    dataset, cache = RobotDataset.open(made[0]), IntentCache(made[1])
    wanted = np.array([FRAMES * 13 + 5, 0, FRAMES * 10, 0])
    states, mask = cache.rows(wanted)
    extractor = IntentExtractor(tiny_mllm, layer=2, max_text_tokens=64)
    expected = extractor.encode_stacked(dataset.pictures(wanted, CAMERAS), dataset.instruction_of(wanted), exact=True)
    assert torch.equal(states, expected.states)
    assert torch.equal(mask, expected.mask)
    assert len(cache) == EPISODES * FRAMES


def test_what_frames_share_is_computed_and_kept_once(made):
    index = json.loads((made[1] / "index.json").read_text())
    assert index["observations"] == index["texts"] == EPISODES  # the pictures of an episode are all the same
    assert index["frames"] == EPISODES * FRAMES


def test_phrasings_share_the_states_of_their_pictures(varied, tiny_mllm):
    dataset, cache = RobotDataset.open(varied[0]), varied[1]
    frames = np.array([3, FRAMES + 1])
    own, mask = cache.rows(frames)
    other, other_mask = cache.rows(frames, phrasing=2)
    seen = int(mask[0].sum()) - 1
    while not torch.equal(own[:, :seen], other[:, :seen]):
        seen -= 1
    assert seen >= 4  # a picture of 56 px is four tokens
    assert not torch.equal(mask, other_mask)
    extractor = IntentExtractor(tiny_mllm, layer=2, max_text_tokens=64)
    asked = [phrasings_of(told, 3)[2] for told in dataset.instruction_of(frames)]
    expected = extractor.encode_stacked(dataset.pictures(frames, CAMERAS), asked, exact=True)
    assert torch.equal(other_mask, expected.mask)
    assert torch.allclose(other.float(), expected.states.float(), rtol=2**-7, atol=1e-4)


def test_every_row_may_be_asked_in_a_variant_of_its_own(varied):
    cache = varied[1]
    assert (cache.n_phrasings, cache.n_augmentations) == (3, 2)
    frames, phrasing, augmentation = np.array([0, 0, 0, 15]), np.array([0, 1, 2, 1]), np.array([0, 2, 1, 2])
    together, mask = cache.rows(frames, phrasing=phrasing, augmentation=augmentation)
    for row in range(len(frames)):
        alone, alone_mask = cache.rows(
            frames[row : row + 1], phrasing=int(phrasing[row]), augmentation=int(augmentation[row])
        )
        assert torch.equal(together[row], alone[0])
        assert torch.equal(mask[row], alone_mask[0])
    plain = cache.rows(frames)[0]
    assert torch.equal(together[0], plain[0])
    assert not torch.equal(together[3], plain[3])
    assert not torch.equal(cache.rows(frames[:1], augmentation=1)[0], cache.rows(frames[:1], augmentation=2)[0])


def test_more_phrasings_than_a_task_has_are_refused_and_foreign_ones_repeated():
    first = TASKS["PushCube"].instructions[0]
    assert phrasings_of(first, 3) == TASKS["PushCube"].instructions
    assert not set(phrasings_of(first, 3)) & set(TASKS["PushCube"].held_out)
    with pytest.raises(UserError, match="phrasings is 4; PushCube is told in 3 ways"):
        phrasings_of(first, 4)
    assert phrasings_of("wash the dishes", 2) == ("wash the dishes",) * 2


def test_int8_takes_half_the_room_and_its_error_is_told(made, tiny_mllm, tmp_path):
    small = write_cache(tmp_path / "int8", made[0], options_for(tiny_mllm, store="int8"))
    large = IntentCache(made[1])
    states, mask = small.rows(np.arange(0, 240, 30))
    expected, _ = large.rows(np.arange(0, 240, 30))
    error = float((states.float() - expected.float()).norm() / expected.float().norm())
    told = json.loads((tmp_path / "int8/index.json").read_text())["store_error"]
    assert 1e-3 < error < 0.02
    assert told == pytest.approx(error, rel=0.3)
    assert not states[~mask].any()
    sizes = [sum(path.stat().st_size for path in folder.glob("*.arrow")) for folder in (tmp_path / "int8", made[1])]
    assert sizes[0] < 0.6 * sizes[1]


def test_int8_follows_each_tokens_own_scale():
    states = torch.randn(5, 3, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 1e4])[:, None]
    for token in range(3):
        error = ErrorSum()
        error.add(unpack(pack(states, "int8"))[:, token], states[:, token])
        assert (error.wrong / error.whole) ** 0.5 < 0.02
    assert torch.equal(unpack(pack(states, "bf16")), states.bfloat16())


def test_threads_may_read_one_cache(made):
    cache = IntentCache(made[1])
    orders = [np.random.default_rng(i).permutation(len(cache))[:64] for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(cache.rows, orders))
    for order, (states, mask) in zip(orders, found, strict=True):
        expected = cache.rows(order)
        assert torch.equal(states, expected[0])
        assert torch.equal(mask, expected[1])


@pytest.fixture(scope="module")
def stages(tiny_mllm, tmp_path_factory) -> tuple[Path, Path]:
    """(render folder, intents folder) of two episodes."""
    root = tmp_path_factory.mktemp("stages")
    render = write_datasets(root / "render", ("panda",), 2)
    return render, write_intents(root / "intents", render, tiny_mllm)


@pytest.mark.parametrize("part", ["weights", "preprocessing", "cameras", "data"])
def test_a_stale_cache_is_refused_and_says_why(stages, tiny_mllm, tmp_path, part):
    render, model, intents = tmp_path / "render", tmp_path / "model", stages[1]
    shutil.copytree(stages[0], render)
    shutil.copytree(tiny_mllm, model)
    cameras = CAMERAS
    assert open_caches(intents, model, datasets_of(render), cameras)["panda"].layer == CONFIG.layer
    if part == "weights":
        weights = bytearray((model / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (model / "model.safetensors").write_bytes(weights)
    elif part == "preprocessing":
        settings = json.loads((model / "processor_config.json").read_text())
        settings["image_processor"]["image_std"][2] += 1e-3
        (model / "processor_config.json").write_text(json.dumps(settings))
    elif part == "cameras":
        cameras = ("front", "front")
    else:
        _change_a_pixel(render / "lerobot/panda")
    with pytest.raises(UserError, match=rf"intents/panda is stale: its {part} changed"):
        open_caches(intents, model, datasets_of(render), cameras)


def _change_a_pixel(dataset: Path) -> None:
    """Of one frame: a byte of its picture's blue."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    path = next((dataset / "data").rglob("*.parquet"))
    table = pq.read_table(path)
    rows = table["observation.images.front"].to_pylist()
    picture = np.array(Image.open(io.BytesIO(rows[7]["bytes"])))
    picture[0, 0, 2] ^= 1
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    rows[7]["bytes"] = buffer.getvalue()
    place = table.column_names.index("observation.images.front")
    column = pa.array(rows, table.schema.field(place).type)
    pq.write_table(table.set_column(place, "observation.images.front", column), path)


@pytest.mark.parametrize("part", ["pictures", "texts", "frames"])
def test_a_damaged_or_missing_shard_is_named(made, tmp_path, part):
    copy = tmp_path / "copy"
    shutil.copytree(made[1], copy)
    shard = sorted(copy.glob(f"*.{part}.arrow"))[1]
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(UserError, match=rf"{shard.name} cannot be read"):
        IntentCache(copy)
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard.name} cannot be read"):
        IntentCache(copy)


def test_an_incomplete_cache_is_told(made, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(made[1], copy)
    (copy / "index.json").unlink()
    with pytest.raises(UserError, match=r"index.json is missing"):
        IntentCache(copy)


def test_the_probe_reads_positions_out_of_features_that_hold_them_and_of_no_others():
    rng = np.random.default_rng(0)
    positions = rng.uniform(-0.1, 0.1, (600, 6)).astype(np.float32)
    seeing = torch.from_numpy(positions @ rng.normal(size=(6, 40)).astype(np.float32))
    blind = torch.from_numpy(rng.normal(size=(600, 40)).astype(np.float32))
    episodes = np.repeat(np.arange(60), 10)
    good, bad = (probe("c", features.view(600, 4, 10), positions, episodes) for features in (seeing, blind))
    assert good.object_cm < 0.3
    assert bad.object_cm > 0.8 * bad.object_spread_cm
