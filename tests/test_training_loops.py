"""The training loops of both stages, in one process: they learn, and a killed one continues bitwise."""

import io
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from small_dataset import SIDE, write_dataset

from blm.model.backbone import load_backbone
from blm.model.options import PolicyConfig
from blm.pipelines import sft_data, stage1_loop, stage2_loop
from blm.pipelines.datasets.chat import ChatRow, chat_turn
from blm.pipelines.intent_cache import IntentCache, ShardWriter, write_index
from blm.pipelines.intents import IntentsConfig, cache_key
from blm.pipelines.stage1 import Stage1Config
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


# ------------------------------------------------------------------------------------------------------------ Stage I


def _chat_rows(n: int, seed: int) -> list[ChatRow]:
    """Pictures that are dark or bright, and the question which."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        bright = bool(rng.integers(2))
        buffer = io.BytesIO()
        pixels = rng.integers(0, 90, (SIDE, SIDE, 3)) + (160 if bright else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        positions = [0.0, 0.0, 0.1, *rng.uniform(-0.1, 0.1, 2).tolist(), 0.02, 0.1, 0.0, 0.0]
        rows.append(
            ChatRow(
                id=f"{seed}-{i}",
                source="simulator",
                category="brightness",
                messages=chat_turn("<image>\nyes or no?", "yes" if bright else "no"),
                images=(buffer.getvalue(),),
                meta={"object_positions": positions},
            )
        )
    return rows


@pytest.fixture
def stage1_config(tiny_mllm, tmp_path):
    """What the driver hands to a worker, with encoded corpora."""
    tokenizer = load_backbone(tiny_mllm)[1].tokenizer
    files = {}
    for split, n in (("train", 64), ("test", 32)):
        from blm.pipelines.datasets.chat import write_chat

        write_chat(tmp_path / split / "rows.parquet", _chat_rows(n, seed=n))
        target = tmp_path / split / "rows.arrow"
        sft_data._encode_file(tmp_path / split / "rows.parquet", target, tokenizer, ("front",), 512)
        files[split] = [str(target)]
    stage = Stage1Config(
        vision_steps=25, vision_batch=8, steps=75, batch=16, learning_rate=2e-3, warmup=5, checkpoint_every_s=0.0
    )
    return {
        "stage": asdict(stage),
        "start": str(tiny_mllm),
        **files,
        "out": str(tmp_path / "out"),
        "seed": 0,
        "dtype": "float32",
        "threads": 1,
    }


def test_stage1_learns_what_the_picture_shows_and_resumes_bitwise(process_group, stage1_config, tmp_path, monkeypatch):
    monkeypatch.setattr(stage1_loop.workers, "prepare", lambda config: (0, 1, torch.device("cpu")))
    stage1_loop.train(stage1_config)
    undisturbed = json.loads((tmp_path / "out/metrics.json").read_text())
    assert undisturbed["accuracy"]["before"]["all"] < 0.2
    assert undisturbed["accuracy"]["after"]["all"] > 0.9
    assert undisturbed["curve"][0]["grounding"] > undisturbed["curve"][-1]["grounding"]

    again = stage1_config | {"out": str(tmp_path / "again")}
    with monkeypatch.context() as patch:
        killed_at(patch, stage1_loop, "collate", 25 + 1 + 60)  # evaluation before, warm-up, most of the rest
        with pytest.raises(KilledError):
            stage1_loop.train(again)
    assert (tmp_path / "again/train/checkpoint.pt").is_file()
    assert not (tmp_path / "again/model").exists()
    stage1_loop.train(again)
    resumed = json.loads((tmp_path / "again/metrics.json").read_text())
    for ours, theirs in zip(resumed["curve"], undisturbed["curve"], strict=True):
        assert (ours["loss"], ours["grounding"]) == (theirs["loss"], theirs["grounding"])
    first, second = (load_backbone(tmp_path / out / "model")[0].state_dict() for out in ("out", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_row_order_visits_every_row_once_an_epoch_and_depends_on_nothing_but_its_place():
    whole = sft_data.row_order(10, 0, 30, seed=1)
    assert [sorted(whole[i : i + 10]) for i in (0, 10, 20)] == [list(range(10))] * 3
    assert np.array_equal(sft_data.row_order(10, 7, 9, seed=1), whole[7:16])
    assert not np.array_equal(whole[:10], whole[10:20])


# ----------------------------------------------------------------------------------------------------------- Stage II


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
