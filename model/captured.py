"""A pass of a network as CUDA graphs, one for each number of rows that is a power of two.

Denoising is some thousand kernels of a few microseconds each, and a host takes longer to start them than the GPU to do
them. A graph starts them all at once. Batches of other sizes are filled up to the next one with rows of which nothing
comes back. The function must wait for no number of the device and make no tensor on the host (tests/test_elsewhere.py).
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

log = logging.getLogger(__name__)

ROWS = (1, 2, 4, 8, 16, 32)
"""Batches that have graphs; larger ones are computed without."""
WARM_PASSES = 2
"""Passes before one is captured: libraries prepare themselves in their first."""
Pass = Callable[[], Tensor]
Capture = Callable[[Pass], tuple[Pass, Tensor]]
"""From a pass over fixed tensors to what repeats it, and the tensor in which its result then stands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Captured:
    inputs: Sequence[Tensor]
    repeat: Pass
    output: Tensor


class Captured:
    """`function(name, *tensors [b, ...]) -> [b, ...]`, whose rows do not see each other. One thread at a time.

    Where a pass cannot be captured, all are computed without graphs from then on, and a warning says so.
    """

    def __init__(self, function: Callable[..., Tensor], capture: Capture) -> None:
        """capture: `CudaGraphs` of the device on which all tensors are."""
        self._function = function
        self._capture = capture
        self._found: dict[Hashable, _Captured] = {}
        self._given_up = False

    @torch.inference_mode()
    def __call__(self, name: str, *tensors: Tensor) -> Tensor:
        """The function's result; the tensor is the caller's own."""
        rows = len(tensors[0])
        size = next((size for size in ROWS if size >= rows), 0)
        if not size or self._given_up:
            return self._function(name, *tensors)
        key = (name, size, *((tensor.shape[1:], tensor.dtype) for tensor in tensors))
        if key not in self._found:
            try:
                self._found[key] = self._captured(name, [_filled_up(tensor, size) for tensor in tensors])
            except RuntimeError as error:
                log.warning("the policy is computed without CUDA graphs: %s", str(error).partition("\n")[0])
                self._given_up = True
                return self._function(name, *tensors)
        found = self._found[key]
        for place, tensor in zip(found.inputs, tensors, strict=True):
            place[:rows].copy_(tensor)
        found.repeat()
        return found.output[:rows].clone()

    def _captured(self, name: str, inputs: list[Tensor]) -> _Captured:
        repeat, output = self._capture(lambda: self._function(name, *inputs))
        return _Captured(inputs=inputs, repeat=repeat, output=output)


class CudaGraphs:
    """Captures passes into CUDA graphs that use one piece of memory: they run one after another, and results are copied
    before the next."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, once: Pass) -> tuple[Pass, Tensor]:
        """As `Capture`. RuntimeError where CUDA cannot."""
        with torch.cuda.device(self._device):
            return self._capture(once)

    def _capture(self, once: Pass) -> tuple[Pass, Tensor]:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_PASSES):
                once()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process, as vLLM's, may use CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = once()

        def repeat() -> Tensor:
            graph.replay()
            return output

        return repeat, output


def _filled_up(tensor: Tensor, rows: int) -> Tensor:
    """A copy with its last row repeated up to `rows` rows."""
    return torch.cat([tensor, tensor[-1:].expand(rows - len(tensor), *tensor.shape[1:])])
