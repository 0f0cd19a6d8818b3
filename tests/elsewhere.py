"""Whether a computation would run on an accelerator, seen without one.

What is to be on the accelerator is on PyTorch's device `meta`, which knows shapes and no numbers. `watched()` refuses
every operation that would mix it with tensors of the CPU, as CUDA does; and since `meta` has no numbers, whoever would
wait for some (`.item()`, `.tolist()`, `.cpu()`, `if tensor:`) fails, too.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ELSEWHERE = torch.device("meta")
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}
"""Their indices may be on the CPU, if what they index is elsewhere."""
T = TypeVar("T")


class _OneDevice(TorchDispatchMode):
    def __init__(self, host: bool) -> None:
        super().__init__()
        self._host = host

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        arguments: tuple[Any, ...] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        options = options or {}
        if not self._host and any(_counts(leaf) and leaf.device != ELSEWHERE for leaf in tree_leaves(arguments)):
            raise RuntimeError(f"{function} is about a tensor of the host")
        if function not in COPIES:
            operands = (arguments[0], *arguments[2:]) if function in INDEXED else (*arguments, *options.values())
            indices = tree_leaves(arguments[1]) if function in INDEXED else []
            devices = {leaf.device.type for leaf in tree_leaves(operands) if _counts(leaf)}
            if devices == {"cpu"}:
                devices |= {leaf.device.type for leaf in indices if _counts(leaf)}
            if len(devices) > 1:
                raise RuntimeError(f"{function} mixes tensors of {' and '.join(sorted(devices))}")
        return function(*arguments, **options)


def _counts(leaf: Any) -> bool:
    """Whether it is a tensor that must be where the others are; a single number on the CPU need not."""
    return isinstance(leaf, torch.Tensor) and (leaf.dim() > 0 or leaf.device == ELSEWHERE)


def watched(*, host: bool = True) -> TorchDispatchMode:
    """A context that refuses what would not run on an accelerator, with RuntimeError or NotImplementedError.

    host: whether tensors of the host may be used beside it; what is captured as a CUDA graph must have none.
    """
    return _OneDevice(host)


def moved(value: T) -> T:
    """A tensor, or a dataclass with all the tensors in it, elsewhere."""
    if isinstance(value, torch.Tensor):
        return value.to(ELSEWHERE)
    if isinstance(value, (list, tuple)):
        return type(value)(moved(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: moved(getattr(value, field.name)) for field in fields(value)})
    return value


def is_elsewhere(*tensors: torch.Tensor) -> bool:
    """Whether all of them are."""
    return all(tensor.device == ELSEWHERE for tensor in tensors)
