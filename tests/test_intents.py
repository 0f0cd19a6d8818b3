"""The intents stage through Ray Data: shards, index, probe, gate, going on after a kill, and doing without a cache."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_dataset import FRAMES, WORLD
from small_intents import CONFIG, write_datasets

from blm.model.errors import UserError
from blm.pipelines.intent import building
from blm.pipelines.intents import IntentsConfig, intents, open_caches
from blm.pipelines.tracking import Tracker
from blm.pipelines.windows.dataset import datasets_of
from blm.pipelines.workspace import ResourceConfig, StageContext

pytestmark = pytest.mark.ray
EPISODES = 15


class KilledError(Exception):
    """Stands for the death of the driver."""


@pytest.fixture(scope="module")
def context(tiny_mllm, tmp_path_factory) -> StageContext:
    root = tmp_path_factory.mktemp("intents")
    (root / "stage1").mkdir()
    (root / "stage1/model").symlink_to(tiny_mllm)
    (root / "intents-0").mkdir()
    return StageContext(
        out=root / "intents-0",
        inputs={"render": write_datasets(root / "render", ("panda", "xarm6"), EPISODES), "stage1": root / "stage1"},
        world=WORLD,
        seed=0,
        tracker=Tracker(),
        resources=ResourceConfig(actors=1),
    )


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model runs here, where transformers is imported already, and not in actors of its own."""
    monkeypatch.setattr(ResourceConfig, "model_workers", {"workers": 0})


def shards(context: StageContext) -> dict[Path, int]:
    """Every shard with the time it was written."""
    return {path: path.stat().st_mtime_ns for path in sorted(context.out.rglob("shard-*.arrow"))}


@pytest.fixture(scope="module")
def killed(ray_cluster, context) -> dict[Path, int]:
    """Shards left by a stage that was killed after the first robot's cache; one of the second's is missing."""
    with pytest.MonkeyPatch.context() as patch:
        write_index, calls = building.write_index, []

        def dying(*arguments, **options):
            calls.append(arguments)
            if len(calls) == 2:
                raise KilledError
            return write_index(*arguments, **options)

        patch.setattr(building, "write_index", dying)
        with pytest.raises(KilledError):
            intents(CONFIG, context)
    assert (context.out / "panda/index.json").is_file()
    assert not (context.out / "xarm6/index.json").exists()
    written = shards(context)
    assert len(written) == 3 * 2 * EPISODES // CONFIG.episodes_per_shard  # pictures, texts, frames
    list(written)[-1].unlink()
    return written


@pytest.fixture(scope="module")
def resumed(killed, context) -> tuple[dict, str]:
    """(summary, what was printed) of the call after the kill."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageContext, "progress", lambda _self, text: lines.append(text))
        patch.setattr(ResourceConfig, "model_workers", {"workers": 0})  # one shard is missing
        return intents(CONFIG, context), "\n".join(lines)


def test_a_killed_stage_makes_only_what_is_missing(killed, resumed, context):
    now = shards(context)
    assert now.keys() == killed.keys()
    missing = list(killed)[-1].name.partition(".")[0]
    anew = [path for path in now if now[path] != killed[path]]
    assert {path.name.partition(".")[0] for path in anew} == {missing}
    assert {path.parent.name for path in anew} == {"xarm6"}
    assert not list(context.out.rglob("*.done.json"))


def test_every_frame_is_kept_once_in_dataset_order(resumed, context, tiny_mllm):
    summary, _ = resumed
    assert summary["frames"] == 2 * EPISODES * FRAMES
    caches = open_caches(context.out, tiny_mllm, datasets_of(context.inputs["render"]), WORLD.cameras)
    assert list(caches) == ["panda", "xarm6"]
    for cache in caches.values():
        assert len(cache) == EPISODES * FRAMES
        states, mask = cache.rows(np.arange(FRAMES + 1))
        assert (states[:FRAMES] == states[0]).all()  # an episode's pictures are all the same
        assert not (states[FRAMES] == states[0]).all()
        assert mask.any(dim=1).all()


def test_the_probe_is_printed_and_written_for_each_cell(resumed, context):
    summary, printed = resumed
    cells = json.loads((context.out / "probe.json").read_text())["cells"]
    assert [cell["cell"] for cell in cells] == ["panda/PushCube", "xarm6/PushCube"]
    assert cells == summary["probe"]
    assert all(cell["object_spread_cm"] > 1 for cell in cells)
    assert f"probe panda/PushCube: object {cells[0]['object_cm']:.2f} cm (spread" in printed


def test_a_finished_cache_is_not_made_again_and_the_gate_stops(resumed, context, monkeypatch):
    monkeypatch.setattr(building, "ShardWriter", None)
    strict = replace(CONFIG, gate="stop", max_error_cm=0.001)
    with pytest.raises(UserError, match=r"locate no object better than .* go on with --set intents\.gate=warn"):
        intents(strict, context)


def test_without_a_cache_a_sample_is_probed_and_nothing_kept(in_this_process, context, tiny_mllm, tmp_path):
    without = replace(context, out=tmp_path / "intents-1", resources=ResourceConfig(actors=1))
    config = replace(CONFIG, cache="none", precision="bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "SAMPLE_EPISODES", 6)
        summary = intents(config, without)
    assert [cell["cell"] for cell in summary["probe"]] == ["panda/PushCube", "xarm6/PushCube"]
    assert summary["frames"] == 2 * EPISODES * FRAMES
    assert not list(without.out.rglob("*.arrow"))
    cache = open_caches(without.out, tiny_mllm, datasets_of(without.inputs["render"]), WORLD.cameras)["panda"]
    assert cache.live
    assert (cache.width, cache.layer, cache.precision, len(cache)) == (96, 2, "bfloat16", EPISODES * FRAMES)
    index = json.loads((without.out / "panda/index.json").read_text())
    assert 1e-4 < index["compute_error"] < 0.03
    with pytest.raises(UserError, match=r"keeps no states \(intents.cache: none\)"):
        cache.rows(np.arange(2))


def test_a_layer_the_model_does_not_have_is_refused(context):
    with pytest.raises(UserError, match="layer is 9; the model has blocks 1 to 3"):
        intents(IntentsConfig(layer=9), context)


@pytest.mark.parametrize("name", ["layer", "max_text_tokens", "episodes_per_shard", "phrasings"])
def test_options_that_make_no_sense_are_refused(name):
    with pytest.raises(UserError, match=f"intents.{name} is 0"):
        IntentsConfig(**{name: 0})
