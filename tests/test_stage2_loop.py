"""The training loop of Stage II, in one process: it learns, and a killed one continues bitwise."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.distributed as dist
from small_dataset import SIDE, write_dataset

from blm.model.options import PolicyConfig
from blm.pipelines import stage2_loop
from blm.pipelines.intent_cache import IntentCache, ShardWriter, write_index
from blm.pipelines.intents import IntentsConfig, cache_key
from blm.pipelines.stage2 import Stage2Config


@pytest.fixture
def process_group(tmp_path):
    """A process group of one, as a training worker would find it."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class KilledError(Exception):
    """Stands for the death of the process."""


def killed_at(monkeypatch, module, name: str, call: int) -> None:
    """Make the `call`-th call of `module.name` raise."""
    original, calls = getattr(module, name), [0]

    def counting(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            raise KilledError
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, counting)


@pytest.fixture
def stage2_config(tiny_mllm, tmp_path):
    """What the driver hands to a worker, with a dataset and its intents."""
    dataset, folder = write_dataset(tmp_path / "panda"), tmp_path / "intents"
    settings = IntentsConfig(layer=2, max_text_tokens=64)
    worker = ShardWriter(
        model_dir=str(tiny_mllm), layer=2, max_text_tokens=64, cameras=("front",), device="cpu", dtype="float32"
    )
    shard = worker({"dataset": str(dataset), "episodes": list(range(20)), "shard": str(folder / "s.arrow")})
    key = cache_key(settings, tiny_mllm, dataset, ("front",))
    write_index(folder, key, [shard])
    policy = PolicyConfig(width=32, blocks=4, heads=2, latents=3, head_hidden=32, future_block=2)
    stage = Stage2Config(
        policy=policy, steps=60, batch=16, learning_rate=3e-3, warmup=5, validate_every=30, checkpoint_every_s=0.0
    )
    return {
        "stage": asdict(stage),
        "datasets": {"panda": str(dataset)},
        "caches": {"panda": str(folder)},
        "mllm": str(tiny_mllm),
        "out": str(tmp_path / "out"),
        "seed": 0,
        "dtype": "float32",
        "threads": 1,
        "contract": {
            "layer": 2,
            "max_text_tokens": 64,
            "cameras": ["front"],
            "image_px": SIDE,
            "intents_fingerprint": key.extractor,
            "provenance": {},
        },
    }


def test_stage2_learns_and_resumes_bitwise(process_group, stage2_config, tmp_path, monkeypatch):
    monkeypatch.setattr(stage2_loop.workers, "prepare", lambda config: (0, 1, torch.device("cpu")))
    stage2_loop.train(stage2_config)
    undisturbed = json.loads((tmp_path / "out/metrics.json").read_text())
    assert undisturbed["curve"][-1]["flow"] < undisturbed["curve"][0]["flow"]
    assert [point["step"] for point in undisturbed["validation"]] == [30, 60]

    again = stage2_config | {"out": str(tmp_path / "again")}
    with monkeypatch.context() as patch:
        killed_at(patch, stage2_loop, "ema_update", 47)
        with pytest.raises(KilledError):
            stage2_loop.train(again)
    stage2_loop.train(again)
    resumed = json.loads((tmp_path / "again/metrics.json").read_text())
    assert resumed["validation"] == undisturbed["validation"]
    for ours, theirs in zip(resumed["curve"], undisturbed["curve"], strict=True):
        assert (ours["flow"], ours["future"]) == (theirs["flow"], theirs["future"])
    first, second = ((tmp_path / out / "model/policy.safetensors").read_bytes() for out in ("out", "again"))
    assert first == second


def test_the_trained_checkpoint_acts(process_group, stage2_config, tmp_path, monkeypatch):
    from blm.model.predictor import BlmPolicy
    from blm.model.types import Observation

    monkeypatch.setattr(stage2_loop.workers, "prepare", lambda config: (0, 1, torch.device("cpu")))
    stage2_config["stage"]["steps"] = 5
    stage2_loop.train(stage2_config)
    policy = BlmPolicy.load(tmp_path / "out/model")
    picture = np.full((SIDE, SIDE, 3), 180, dtype=np.uint8)
    seen = Observation(
        images={"front": picture}, state=np.zeros(8, np.float32), instruction="push the cube", embodiment="panda"
    )
    assert np.isfinite(policy.infer(seen).actions).all()


def test_a_damaged_cache_is_told(stage2_config, tmp_path):
    (tmp_path / "intents/s.arrow").write_bytes(b"nothing")
    from blm.model.errors import UserError

    with pytest.raises(UserError, match=r"s.arrow cannot be read"):
        IntentCache(tmp_path / "intents")
