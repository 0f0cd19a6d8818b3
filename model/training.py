"""What a training loop needs besides the model: seeds that follow from the step alone, number format, weight average,
recomputation and compilation of blocks.

Plain PyTorch; the loops themselves, and what runs them on several machines, are in `blm.pipelines`.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from blm.model.options import Precision


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """The randomness of one step of one worker: a pure function of its arguments, so that a resumed run repeats it.

    PyTorch's global generator, from which dropout draws, is seeded as well.
    """
    state = np.random.SeedSequence((seed, step, rank)).generate_state(2, np.uint64) >> 1
    torch.manual_seed(int(state[0]))
    return torch.Generator().manual_seed(int(state[1]))


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware; CPUs that do not emulate it, slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def resolve_precision(precision: Precision, dtype: str, device: torch.device) -> Literal["float32", "bfloat16"]:
    """What a stage's `precision` comes to on a device whose resources say `dtype`: `auto` follows `dtype`, and takes
    bfloat16 on CPUs that are fast with it.
    """
    if precision != "auto":
        return precision
    return "bfloat16" if dtype == "bfloat16" or (device.type == "cpu" and fast_bfloat16(device)) else "float32"


def mixed_precision(device: torch.device, precision: Literal["float32", "bfloat16"]) -> AbstractContextManager[object]:
    """Context for forward passes, which may be entered again: matrix products in `precision`, weights as they are."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def cast_linears(module: nn.Module, dtype: torch.dtype) -> None:
    """Weights of linear layers in a format for good, for passes under autocast that would cast them every time."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.to(dtype)


def ema_update(average: Mapping[str, Tensor], current: Mapping[str, Tensor], step: int, decay: float) -> None:
    """Exponential moving average of weights, in place; early steps average faster (min(decay, (1+n)/(10+n)))."""
    rate = 1 - min(decay, (1 + step) / (10 + step))
    names = list(average)
    torch._foreach_lerp_([average[n] for n in names], [current[n] for n in names], rate)


def enable_checkpointing(model: Any) -> None:
    """Keep of each block of an MLLM its input alone in training, and run it again for the gradients: memory for a
    third more arithmetic."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def compile_layers(model: Any, *, backend: str = "inductor") -> None:
    """Compile each transformer block of an MLLM by itself: all blocks share one compilation, and names of parameters
    stay. Worth it on GPUs; on CPUs the minute it takes does not come back in a short training."""
    from blm.model.families import family_of, parts_of
    from blm.model.vision import run_block

    parts = parts_of(model)
    for block in parts.language_blocks:
        block.compile(dynamic=True, backend=backend)
    if family_of(model.config).fast_vision:
        parts.vision.blm_block = torch.compile(run_block, dynamic=True, backend=backend)
    else:
        for block in parts.vision_blocks:
            block.compile(dynamic=True, backend=backend)
