"""Floating-point operations of a training step on a packed batch, and what devices can do in a second.

Counted is what the mathematics needs: two operations for each weight of a linear layer and token, attention within
documents (half of the square, as it is causal) and within pictures or their windows, the output layer on answer tokens
alone. The backward pass costs twice the forward pass. Norms, rotations and the optimiser are left out. So a model
FLOPs utilisation made of it is honest about padding and recomputation: neither counts as work.
"""

import json
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig

from blm.model.families import empty_model, parts_of
from blm.model.packing import PackedBatch
from blm.model.vision import MERGE, PATCH_PX

_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}
"""Dense bfloat16 products (operations a second) by a part of the device's name; the first that fits counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Costs:
    """Weights of linear layers that every token (or patch) meets, and sizes of attention."""

    language: int
    """Weights in the language model's blocks."""
    language_last: int
    """Of these, what ends a block: its product is not needed for gradients, and not made again."""
    head: int
    """Weights of the output layer."""
    patch: int
    """Weights of the patch embedding, whose input needs no gradient."""
    vision: int
    """Weights in the tower's blocks."""
    vision_last: int
    merger: int
    """Weights of the mergers."""
    attention: int
    """Width of all heads of a block, times blocks."""
    vision_width: int
    vision_blocks: int


def training_flops(config: PretrainedConfig, batch: PackedBatch, *, recompute: bool = False) -> float:
    """Operations of forward and backward pass on one packed batch; with `recompute` those of running the blocks again
    as well (gradient checkpointing), which is what the device does, not what a utilisation counts.
    """
    costs = _costs(config.to_json_string())
    tokens = sum(batch.lengths)
    squares = sum(length**2 for length in batch.lengths)
    answers = len(batch.answers)
    blocks = 2.0 * costs.language * tokens + 2.0 * costs.attention * squares  # 4 * width * pairs, half of the square
    head = 2.0 * costs.head * answers
    total, patches, tower, merger = _vision(config, costs, batch)
    again = blocks + tower - 2.0 * (costs.language_last * tokens + costs.vision_last * total) if recompute else 0.0
    return 3 * (blocks + head + tower + merger) + 2 * patches + again


def device_flops(device: torch.device) -> float:
    """Peak of dense bfloat16 products (operations a second) of a GPU by its name; 0 for CPUs and unknown ones."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if part in name), 0.0)


def _vision(config: PretrainedConfig, costs: _Costs, batch: PackedBatch) -> tuple[int, float, float, float]:
    """Patches; forward operations of the patch embedding, of the tower's blocks and of the mergers."""
    vision = config.vision_config
    pictures: list[tuple[int, int, int]] = []  # (how many, patches high, patches wide)
    for stack in (*batch.images, *batch.videos):
        height, width = stack.pixels.shape[-3:-1]
        pictures.append((len(stack.pixels), height // PATCH_PX, width // PATCH_PX))
    for name, tensor in batch.inputs.items():
        pictures += _sizes(name, tensor, vision)
    window = getattr(vision, "window_size", 0) // PATCH_PX
    everywhere = len(getattr(vision, "fullatt_block_indexes", ())) if window else costs.vision_blocks
    total = 0
    attended = 0.0
    for count, high, wide in pictures:
        seen = min(high, window) * min(wide, window)
        pairs = everywhere * high * wide + (costs.vision_blocks - everywhere) * seen
        attended += 4.0 * costs.vision_width * count * high * wide * pairs
        total += count * high * wide
    merged = 2.0 * costs.merger * total / MERGE**2
    return total, 2.0 * costs.patch * total, 2.0 * costs.vision * total + attended, merged


def _sizes(name: str, tensor: Tensor, vision: PretrainedConfig) -> list[tuple[int, int, int]]:
    """(how many, patches high, patches wide) of what goes through a family's own vision forward."""
    if name.endswith("grid_thw"):
        return [(frames, high, wide) for frames, high, wide in tensor.tolist()]
    if name.startswith("pixel_values") and tensor.dim() >= 4:
        patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
        return [(tensor.shape[:-3].numel(), tensor.shape[-2] // patch, tensor.shape[-1] // patch)]
    return []


@cache
def _costs(config_json: str) -> _Costs:
    config = _config(config_json)
    model = empty_model(config)
    parts = parts_of(model)
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return _Costs(
        language=sum(_weights(block) for block in parts.language_blocks),
        language_last=sum(_linear(block)[-1].weight.numel() for block in parts.language_blocks),
        head=text.hidden_size * text.vocab_size,
        patch=sum(m.weight.numel() for m in parts.vision.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))),
        vision=sum(_weights(block) for block in parts.vision_blocks),
        vision_last=sum(_linear(block)[-1].weight.numel() for block in parts.vision_blocks),
        merger=sum(_weights(merger) for merger in parts.mergers),
        attention=width * text.num_attention_heads * len(parts.language_blocks),
        vision_width=config.vision_config.hidden_size,
        vision_blocks=len(parts.vision_blocks),
    )


def _config(config_json: str) -> PretrainedConfig:
    fields = json.loads(config_json)
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def _linear(module: nn.Module) -> list[nn.Linear]:
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


def _weights(module: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in _linear(module))
