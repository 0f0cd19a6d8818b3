"""The intents stage through Ray Data: shards, index, probe, gate, and going on after a kill."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_dataset import FRAMES, WORLD
from small_intents import CONFIG, write_datasets

from blm.model.errors import UserError
from blm.pipelines import intent_cache
from blm.pipelines.intent_cache import IntentCache
from blm.pipelines.intents import IntentsConfig, cache_key, intents
from blm.pipelines.tracking import Tracker
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


def shards(context: StageContext) -> dict[Path, int]:
    """Every shard with the time it was written."""
    return {path: path.stat().st_mtime_ns for path in sorted(context.out.rglob("shard-*.arrow"))}


@pytest.fixture(scope="module")
def killed(ray_cluster, context) -> dict[Path, int]:
    """Shards left by a stage that was killed after the first robot's cache; one of the second's is missing."""
    with pytest.MonkeyPatch.context() as patch:
        write_index, calls = intent_cache.write_index, []

        def dying(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                raise KilledError
            write_index(*arguments)

        patch.setattr(intent_cache, "write_index", dying)
        with pytest.raises(KilledError):
            intents(CONFIG, context)
    assert (context.out / "panda/index.json").is_file()
    assert not (context.out / "xarm6/index.json").exists()
    written = shards(context)
    assert len(written) == 2 * EPISODES // CONFIG.episodes_per_shard
    list(written)[-1].unlink()
    return written


@pytest.fixture(scope="module")
def resumed(killed, context) -> tuple[dict, str]:
    """(summary, what was printed) of the call after the kill."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageContext, "progress", lambda _self, text: lines.append(text))
        return intents(CONFIG, context), "\n".join(lines)


def test_a_killed_stage_makes_only_what_is_missing(killed, resumed, context):
    now = shards(context)
    assert now.keys() == killed.keys()
    missing = list(killed)[-1]
    assert {path for path in now if now[path] != killed[path]} == {missing}
    assert not list(context.out.rglob("shard-*.json"))


def test_every_frame_is_kept_once_in_dataset_order(resumed, context, tiny_mllm):
    summary, _ = resumed
    assert summary["frames"] == 2 * EPISODES * FRAMES
    for robot in ("panda", "xarm6"):
        key = cache_key(CONFIG, tiny_mllm, context.inputs["render"] / "lerobot" / robot, WORLD.cameras)
        cache = IntentCache(context.out / robot, key)
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
    monkeypatch.setattr(intent_cache, "ShardWriter", None)
    strict = IntentsConfig(layer=2, max_text_tokens=64, episodes_per_shard=5, max_error_cm=0.001)
    with pytest.raises(UserError, match=r"locate no object better than .* go on with --set intents\.gate=warn"):
        intents(strict, context)


def test_a_layer_the_model_does_not_have_is_refused(context):
    with pytest.raises(UserError, match="layer is 9; the model has blocks 1 to 3"):
        intents(IntentsConfig(layer=9), context)


@pytest.mark.parametrize("name", ["layer", "max_text_tokens", "episodes_per_shard"])
def test_options_that_make_no_sense_are_refused(name):
    with pytest.raises(UserError, match=f"intents.{name} is 0"):
        IntentsConfig(**{name: 0})
