"""Backbones: the folder loads in transformers as it is, and mistakes are named."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from blm.model.backbone import build_tiny, load_backbone
from blm.model.errors import UserError
from blm.model.options import TinyBackboneConfig


def test_transformers_loads_the_folder_and_gives_the_same_logits(tiny_mllm):
    ours, processor = load_backbone(tiny_mllm)
    theirs = AutoModelForImageTextToText.from_pretrained(tiny_mllm).eval()
    inputs = processor.tokenizer("Where is the cube?", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(ours(**inputs).logits, theirs(**inputs).logits)


def test_the_same_seed_builds_the_same_weights(tiny_mllm):
    tokenizer = load_backbone(tiny_mllm)[1].tokenizer
    config = TinyBackboneConfig(vision_depth=1, vision_width=64, depth=1, width=96)
    first, again, other = (build_tiny(config, tokenizer, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no model in .*nowhere.*config.json is missing"):
        load_backbone(tmp_path / "nowhere")


def test_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="is a bert model; an image-text-to-text model is needed"):
        load_backbone(tmp_path)
