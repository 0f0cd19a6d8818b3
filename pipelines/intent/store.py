"""How hidden states are kept: as bfloat16, or as int8 with a scale a token; and how far that is from what they were.

bfloat16 has the range the hidden states of large models need (their biggest channels overflow float16), and an intent
is rounded to it anyway. int8 halves the room, at an error that depends on how far a token's largest channel stands out;
it is measured where it is made.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

Store = Literal["bf16", "int8"]
ITEM_TYPES: dict[Store, np.dtype[Any]] = {"bf16": np.dtype(np.uint16), "int8": np.dtype(np.int8)}
_LARGEST = 127


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """States as they are kept."""

    values: np.ndarray
    """[n, L, d]: the bits of bfloat16 as uint16, or int8."""
    scales: np.ndarray | None
    """float32 [n, L], what 1 of int8 stands for; None for bfloat16."""


@dataclass(kw_only=True, slots=True)
class ErrorSum:
    """Adds up how far some numbers are from others: the root of their mean square distance, relative to their own."""

    wrong: float = 0.0
    """Sum of squared differences."""
    whole: float = 0.0
    """Sum of squares."""

    def add(self, given: Tensor, exact: Tensor) -> None:
        """Compare two tensors of one shape."""
        self.wrong += float((given.float() - exact.float()).square().sum())
        self.whole += float(exact.float().square().sum())


def pack(states: Tensor, store: Store) -> Packed:
    """States [n, L, d] of any number format, as they are kept."""
    if store == "bf16":
        bits = states.to("cpu", torch.bfloat16).contiguous().view(torch.uint16)
        return Packed(values=bits.numpy(), scales=None)
    exact = states.float()
    scales = exact.abs().amax(dim=-1).clamp_min(1e-30) / _LARGEST
    values = (exact / scales.unsqueeze(-1)).round().to(torch.int8)
    return Packed(values=values.cpu().contiguous().numpy(), scales=scales.cpu().numpy())


def unpack(packed: Packed) -> Tensor:
    """The states, bfloat16 [n, L, d]."""
    if packed.scales is None:
        return torch.from_numpy(packed.values).view(torch.bfloat16)
    values, scales = torch.from_numpy(packed.values), torch.from_numpy(packed.scales).unsqueeze(-1)
    return values.float().mul_(scales).to(torch.bfloat16)  # three passes, twenty times faster than one of mixed types


def column(values: np.ndarray) -> pa.Array:
    """An array [n, ...] as an Arrow column of n pieces of bytes, without a copy."""
    data = np.ascontiguousarray(values)
    width = data.nbytes // len(data)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(data), [None, pa.py_buffer(data)])


def values_of(table: pa.Table, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """A column that `column` made, [n, *shape], where it lies in the (memory-mapped) file."""
    buffer = table[name].chunk(0).buffers()[1]
    return np.frombuffer(buffer, dtype=dtype, count=table.num_rows * int(np.prod(shape))).reshape(-1, *shape)
