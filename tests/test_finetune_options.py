"""Stage I's options, one short training each: averaged weights, LoRA, freezing, families, mixture, micro batches."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from small_families import write_family
from small_stage1 import bright_or_dark, learned, loop_config, run, run_and_die
from transformers import AutoModelForImageTextToText

from blm.model.chat_encoder import ChatEncoder
from blm.model.errors import UserError
from blm.model.options import LoraConfig
from blm.pipelines.datasets.chat import ChatRow, Video, chat_turn, write_chat
from blm.pipelines.finetune.encode import encode_file
from blm.pipelines.mixture import MixtureEntry
from blm.pipelines.stage1 import Stage1Config

PLAIN: dict[str, Any] = {
    "vision_steps": 0,
    "grounding_weight": 0.0,
    "steps": 6,
    "optimizer": "adamw",
    "checkpoint_every_s": 1e9,
}


@pytest.fixture(autouse=True)
def process_group(tmp_path):
    """A process group of one, as a training worker would find it."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def published(mllm: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """`mllm` fine-tuned as a backbone that somebody else made."""
    return loop_config(mllm, folder, **(PLAIN | {"backbone": str(mllm)} | options))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").state_dict()


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out/metrics.json").read_text())


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Names of weights that differ."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_micro_batches_do_not_change_what_is_learned(tiny_mllm, tmp_path):
    whole = published(tiny_mllm, tmp_path / "one", precision="float32")
    run(whole, published(tiny_mllm, tmp_path / "many", precision="float32", max_length=40, micro_tokens=50))
    one, many = metrics(tmp_path / "one")["curve"], metrics(tmp_path / "many")["curve"]
    assert many[-1]["loss"] == pytest.approx(one[-1]["loss"], abs=1e-4)
    assert many[-1]["gradient_norm"] == pytest.approx(one[-1]["gradient_norm"], rel=1e-3)


def test_gradient_checkpointing_does_not_change_what_is_learned(tiny_mllm, tmp_path):
    plain, again = (published(tiny_mllm, tmp_path / str(on), gradient_checkpointing=on) for on in (False, True))
    run(plain, again)
    first, second = (weights(tmp_path / name / "out/model") for name in ("False", "True"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-5, rtol=1e-4)


def test_what_has_rate_zero_stays_as_it_was(tiny_mllm, tmp_path):
    run(published(tiny_mllm, tmp_path, vision_rate=0.0, merger_rate=0.0))
    names = changed(weights(tiny_mllm), weights(tmp_path / "out/model"))
    assert names
    assert not any("visual" in name for name in names)
    record = metrics(tmp_path)
    assert 0 < record["trained_parameters"] < record["parameters"]


def test_lora_is_merged_into_a_plain_folder_and_resumes_bitwise_from_its_matrices_alone(tiny_mllm, tmp_path):
    config = published(tiny_mllm, tmp_path, lora=LoraConfig(rank=4, dropout=0.1), checkpoint_every_s=0.0)
    run(config)
    before, after = weights(tiny_mllm), weights(tmp_path / "out/model")
    names = changed(before, after)
    assert any("self_attn.q_proj.weight" in name for name in names)
    assert not any("embed_tokens" in name or "norm" in name for name in names)
    stored = sum(path.stat().st_size for path in (tmp_path / "out/train/000006").glob("*.distcp"))
    assert stored < sum(tensor.nbytes for tensor in before.values())

    again = config | {"out": str(tmp_path / "again")}
    run_and_die(again, 3)
    run(again)
    assert learned(tmp_path / "again") == learned(tmp_path / "out")
    assert not changed(after, weights(tmp_path / "again/model"))


def test_the_average_of_the_weights_is_what_is_measured_and_saved(tiny_mllm, tmp_path):
    last, average = published(tiny_mllm, tmp_path / "last"), published(tiny_mllm, tmp_path / "average", ema=0.9)
    run(last, average)
    start, at_end, averaged = (
        weights(folder)["model.language_model.layers.0.mlp.up_proj.weight"]
        for folder in (tiny_mllm, tmp_path / "last/out/model", tmp_path / "average/out/model")
    )
    assert metrics(tmp_path / "last")["curve"][-1]["loss"] == metrics(tmp_path / "average")["curve"][-1]["loss"]
    assert 0 < (averaged - start).norm() < (at_end - start).norm()


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl"])
def test_other_families_are_trained_and_saved_as_they_came(family, tmp_path):
    start = write_family(tmp_path / "start", family)
    folder = start if isinstance(start, Path) else tmp_path / "start"
    run(published(folder, tmp_path))
    names = changed(weights(folder), weights(tmp_path / "out/model"))
    assert any("vision" in name or "visual" in name for name in names)
    curve = metrics(tmp_path)["curve"]
    assert curve[-1]["gradient_norm"] > 0


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_videos_are_trained_on(family, tmp_path):
    start = write_family(tmp_path / "start", family)
    config = published(start, tmp_path, batch=3)
    frames = bright_or_dark(8, seed=1)
    shown = tuple(row.images[0] for row in frames if row.images)[:4]
    films = [
        ChatRow(
            id=f"film-{i}",
            source="films",
            category="film",
            messages=chat_turn("<video>\nWhat happens?", answer),
            videos=(Video(frames=shown, fps=2.0),),
        )
        for i, answer in enumerate(["yes", "no", "yes yes"])
    ]
    write_chat(tmp_path / "films.parquet", films)
    target = tmp_path / "films.arrow"
    encode_file(tmp_path / "films.parquet", target, ChatEncoder.load(start), cameras=("front",), max_length=512)
    run(config | {"train": [str(target)]})
    assert list(metrics(tmp_path)["mixture"]) == ["films"]
    assert any("visual" in name for name in changed(weights(start), weights(tmp_path / "out/model")))


def test_half_precision_weights_are_saved_in_half_precision(tiny_mllm, tmp_path):
    from blm.model.backbone import load_backbone, save_backbone

    model, processor = load_backbone(tiny_mllm, dtype=torch.bfloat16)
    save_backbone(tmp_path / "start", model, processor)
    run(published(tmp_path / "start", tmp_path))
    assert json.loads((tmp_path / "out/model/config.json").read_text())["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in weights(tmp_path / "out/model").values()} == {torch.bfloat16}


@pytest.mark.parametrize("options", [{}, {"lora": LoraConfig(rank=4), "ema": 0.9}, {"backbone": "tiny"}])
def test_without_steps_the_backbone_is_measured_and_saved_as_it_is(tiny_mllm, tmp_path, options):
    run(published(tiny_mllm, tmp_path, **options, steps=0))
    assert not changed(weights(tiny_mllm), weights(tmp_path / "out/model"))
    record = metrics(tmp_path)
    assert record["curve"] == []
    assert record["accuracy"]["before"] == record["accuracy"]["after"]
    assert record["heldout"]["picture"]["hidden"] is not None


def test_a_source_outside_the_mixture_is_not_trained_on(tiny_mllm, tmp_path):
    run(published(tiny_mllm, tmp_path, mixture=(MixtureEntry(source="language", epochs=1.0),)))
    mix = metrics(tmp_path)["mixture"]
    assert mix["language"]["share_of_tokens"] == 1.0
    assert mix["simulator"]["epochs"] == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "muon", "parallel": "fsdp"}, "muon needs whole matrices"),
        ({"optimizer": "adamw8bit", "parallel": "fsdp"}, "adamw8bit works on replicas"),
        ({"ema": 1.0}, "stage1.ema is 1.0"),
        ({"micro_tokens": 100}, "stage1.micro_tokens is 100"),
        ({"vision_rate": -1.0}, "stage1.vision_rate is -1.0"),
        ({"learning_rate": 0.0}, "stage1.learning_rate"),
        ({"lora": LoraConfig(rank=4)}, "made from scratch"),
        ({"grounding_weight": 0.0}, "vision_steps needs the grounding head"),
        (
            PLAIN | {"backbone": "x", "vision_rate": 0.0, "merger_rate": 0.0, "language_rate": 0.0},
            "nothing would learn",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Stage1Config(**options)
