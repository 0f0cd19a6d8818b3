"""Operations of a training step: against PyTorch's own count, and what they leave out."""

import pytest
import torch
from small_families import FAMILIES, encoded_row, write_family
from torch.utils.flop_counter import FlopCounterMode

from blm.model.backbone import load_backbone
from blm.model.chat_encoder import ChatEncoder
from blm.model.flops import device_flops, training_flops
from blm.model.packing import pack
from blm.model.qwen_configs import qwen2_5_vl_config
from blm.model.sft import SftModule
from blm.model.training import enable_checkpointing


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path):
    folder = write_family(tmp_path / request.param, request.param)
    return load_backbone(folder)[0], ChatEncoder.load(folder)


def counted(module: SftModule, batch) -> float:
    """By PyTorch, operation for operation."""
    with FlopCounterMode(display=False) as counter:
        module(batch)[0].backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("recompute", [False, True])
def test_linear_layers_are_counted_as_pytorch_counts_them(family, recompute):
    """Short documents, so that attention, of which PyTorch counts the whole square, is a small part."""
    model, encoder = family
    rows = [encoded_row(encoder, seed, sizes=((56, 56),), answer="yes") for seed in range(4)]
    batch = pack(rows, pad_token_id=0)
    module = SftModule(model, None).train()
    if recompute:
        enable_checkpointing(model)
    assert training_flops(model.config, batch, recompute=recompute) == pytest.approx(counted(module, batch), rel=0.1)


def test_padding_and_prompts_cost_nothing_in_the_output_layer(family):
    model, encoder = family
    rows = [encoded_row(encoder, 0, question="Where is the cube? " * n) for n in (1, 9)]
    short, long = (training_flops(model.config, pack([row], pad_token_id=0)) for row in rows)
    assert long > 1.5 * short
    for row in rows:
        plain = training_flops(model.config, pack([row], pad_token_id=0))
        assert training_flops(model.config, pack([row], pad_token_id=0, pad_to=512)) == plain


def test_a_7b_step_costs_about_six_operations_a_weight_and_token(family):
    _, encoder = family
    row = encoded_row(encoder, 0, question="Where is the cube? " * 9)
    batch = pack([row] * 4, pad_token_id=0)
    config = qwen2_5_vl_config("7b")
    weights_of_blocks = 6.525e9
    assert training_flops(config, batch) == pytest.approx(6 * weights_of_blocks * sum(batch.lengths), rel=0.03)


def test_videos_cost_what_as_many_pictures_cost(family):
    model, encoder = family
    none = training_flops(model.config, pack([encoded_row(encoder, 0)], pad_token_id=0))
    two, four = (
        training_flops(model.config, pack([encoded_row(encoder, 0, frames=frames)], pad_token_id=0))
        for frames in (4, 8)
    )
    assert (four - none) == pytest.approx(2 * (two - none), rel=0.15)


def test_only_known_gpus_have_a_peak(monkeypatch):
    assert device_flops(torch.device("cpu")) == 0.0
    names = {"NVIDIA H200": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA L4": 121e12, "NVIDIA L40S": 362e12, "Other": 0}
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device, name=name: name)
        assert device_flops(torch.device("cuda")) == peak
