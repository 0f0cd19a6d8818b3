"""Families of models: their parts are found, in the table or without it, up to the full 7B configuration."""

import pytest
import torch
from small_families import FAMILIES, UNLISTED, write_family
from torch import nn
from transformers import PaliGemmaConfig

from blm.model import families
from blm.model.backbone import load_backbone
from blm.model.errors import UserError
from blm.model.families import empty_model, family_of, parts_of
from blm.model.qwen_configs import qwen2_5_vl_config


@pytest.fixture(scope="module", params=[*FAMILIES, UNLISTED])
def model(request, tmp_path_factory):
    return load_backbone(write_family(tmp_path_factory.mktemp("families") / request.param, request.param))[0]


def test_parts_are_the_whole_model_but_embedding_and_output(model):
    parts = parts_of(model)
    config = model.config
    depth = getattr(config.vision_config, "depth", None) or config.vision_config.num_hidden_layers
    assert len(parts.vision_blocks) == depth
    assert len(parts.language_blocks) == config.text_config.num_hidden_layers
    covered = {id(p) for part in (parts.vision, parts.language, *parts.mergers) for p in part.parameters()}
    rest = [name for name, p in model.named_parameters() if id(p) not in covered]
    assert rest in ([], ["lm_head.weight"])
    assert all(isinstance(block, nn.Module) and list(block.parameters()) for block in parts.language_blocks)


def test_a_family_outside_the_table_is_found_by_its_modules(model, monkeypatch):
    known = family_of(model.config)
    monkeypatch.delitem(families.FAMILIES, model.config.model_type, raising=False)
    monkeypatch.setattr(families, "_unknown", {})
    found = family_of(model.config)
    assert (found.vision, found.language, found.fast_vision) == (known.vision, known.language, False)
    assert found.mergers[0] == known.mergers[0]
    assert found.positions == ("model" if hasattr(model.model, "get_rope_index") else "sequence")


def test_families_that_look_ahead_are_refused():
    with pytest.raises(UserError, match="paligemma models attend to pictures in both directions"):
        family_of(PaliGemmaConfig())


def test_other_patch_sizes_take_the_models_own_vision(tmp_path):
    config = qwen2_5_vl_config("7b")
    assert family_of(config).fast_vision
    config.vision_config.patch_size = 16
    assert not family_of(config).fast_vision


@pytest.mark.parametrize(("size", "billions"), [("3b", 3.75), ("7b", 8.29)])
def test_published_sizes_build_on_the_meta_device(size, billions):
    config = qwen2_5_vl_config(size)
    model = empty_model(config)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)
    parts = parts_of(model)
    assert len(parts.vision_blocks) == 32
    assert [layer.self_attn.q_proj.weight.shape for layer in parts.language_blocks[:1]] == [
        torch.Size([config.text_config.hidden_size] * 2)
    ]
    with pytest.raises(UserError, match="take one of 3b, 7b"):
        qwen2_5_vl_config("8b")
