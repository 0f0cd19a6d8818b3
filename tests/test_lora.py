"""Low-rank adapters: what is trained, and that merging leaves a plain model that computes the same."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_families import FAMILIES, encoded_row, write_family
from transformers import AutoModelForImageTextToText

from blm.model.backbone import load_backbone, save_backbone
from blm.model.chat_encoder import ChatEncoder
from blm.model.errors import UserError
from blm.model.families import parts_of
from blm.model.lora import add_lora, merge_lora
from blm.model.optim import make_optimizers
from blm.model.options import LoraConfig
from blm.model.packing import pack
from blm.model.sft import SftModule


@pytest.fixture(params=FAMILIES)
def backbone(request, tmp_path):
    folder = write_family(tmp_path / request.param, request.param)
    encoder = ChatEncoder.load(folder)
    rows = [encoded_row(encoder, seed, sizes=((56, 56),), answer=("yes", "no")[seed]) for seed in range(2)]
    return *load_backbone(folder), pack(rows, pad_token_id=0)


def linear(blocks: list[torch.nn.Module]) -> list[torch.nn.Linear]:
    return [m for block in blocks for m in block.modules() if isinstance(m, torch.nn.Linear)]


@pytest.mark.parametrize("vision", [False, True])
def test_the_adapters_alone_are_trained(backbone, vision):
    model, _, _ = backbone
    parts = parts_of(model)
    layers = linear(parts.language_blocks) + (linear(parts.vision_blocks) if vision else [])
    expected = sum(4 * (layer.in_features + layer.out_features) for layer in layers)
    add_lora(model, LoraConfig(rank=4, vision=vision))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def test_training_adapters_and_merging_gives_a_plain_model(backbone, tmp_path):
    model, processor, batch = backbone
    names = set(model.state_dict())
    save_backbone(tmp_path / "start", model, processor)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_lora(model, LoraConfig(rank=4))
    module = SftModule(model, None)
    (optimizer,) = make_optimizers(module, learning_rate=2e-2, weight_decay=0.0)
    first = module(batch)[0].item()
    for _ in range(10):
        optimizer.zero_grad()
        module(batch)[0].backward()
        optimizer.step()
    expected = module(batch)[0].item()
    assert expected < 0.95 * first
    merge_lora(model)
    assert module(batch)[0].item() == pytest.approx(expected, rel=1e-4)
    assert set(model.state_dict()) == names
    changed = {name for name in names if not torch.equal(model.state_dict()[name], weights[name])}
    assert len(changed) == len(linear(parts_of(model).language_blocks))

    save_backbone(tmp_path / "merged", model, processor)
    start, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "merged"))
    assert set(merged) == set(start)
    assert not list((tmp_path / "merged").glob("adapter*"))
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert SftModule(again, None)(batch)[0].item() == pytest.approx(expected, rel=1e-4)


def test_adapters_saved_as_they_are_merge_in_a_fresh_model(backbone, tmp_path):
    """How a sharded training ends: the whole state is loaded into another model that has adapters."""
    model, processor, batch = backbone
    save_backbone(tmp_path / "start", model, processor)
    add_lora(model, LoraConfig(rank=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    expected = SftModule(model, None)(batch)[0].item()
    fresh, _ = load_backbone(tmp_path / "start")
    add_lora(fresh, LoraConfig(rank=4))
    fresh.load_state_dict(model.state_dict())
    merge_lora(fresh)
    assert SftModule(fresh, None)(batch)[0].item() == pytest.approx(expected, rel=1e-4)


def test_the_folder_says_the_format_of_the_weights_it_holds(backbone, tmp_path):
    model, processor, _ = backbone
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    save_backbone(tmp_path / "half", model, processor, state_dict=halves)
    config = json.loads((tmp_path / "half/config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "float32" not in json.dumps(config)
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16


def test_mistakes_are_told():
    with pytest.raises(UserError, match="rank of 0 or more"):
        LoraConfig(rank=-1)
    with pytest.raises(UserError, match="dropout is 1"):
        LoraConfig(dropout=1.0)
