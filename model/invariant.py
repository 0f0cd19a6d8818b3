"""Layers whose result for a row does not depend on the other rows of the batch, to the last bit, on a CPU.

An evaluation batches whoever asks at the moment, so that the batch an episode is in is a matter of chance. Its outcome
must not be: a joint target that differs in its last bit is another trajectory a hundred steps later. What makes a row
depend on its batch is not the arithmetic but the choice of a kernel by the size of the whole, and each kernel adds up
in its own order (docs/determinism.md has the measurements):

- float32 products. MKL takes another kernel for up to three rows, and for what is left over when threads share the
  rows. oneDNN has one for a single row and one for all other numbers, whatever the threads. So products go to oneDNN,
  a single row twice. On AMD processors, where MKL does without AVX-512, that is twice as fast besides.
- Convolutions. PyTorch gives small batches to a kernel of its own. Here two-dimensional ones always go to oneDNN;
  one-dimensional ones, which are short, are products of windows.
- SiLU and Mish. What is left over when a tensor is cut into vectors (and into shares of threads) goes through another
  exponential. Here they are written with operations that are the same everywhere.
- Attention whose keys are padded to the longest of the batch, and sums over padding: they get a fixed length where
  they are called (`intents.py`, `diffusion_encoder.py`).

bfloat16 products (oneDNN's as well), batched products of attention, norms and softmax need nothing.
Training does without all this: a network is changed by `make_invariant` when it is loaded to act.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEWEST = 32
"""Rows that a product is filled up to without oneDNN: enough for other libraries' kernels of many rows, as far as
known."""


def make_invariant(network: nn.Module, others: Mapping[type[nn.Module], type[nn.Module]] | None = None) -> None:
    """Turn the layers of a network on a CPU into those below, weights as they are. Other devices and number formats
    are left alone. others: which of those below stands for layers that are not PyTorch's."""
    kinds = {**_KINDS, **(others or {})}
    for module in network.modules():
        kind = kinds.get(type(module))
        if kind is not None and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in module.parameters()):
            module.__class__ = kind  # in place: whoever holds the layer, its parameters or its hooks keeps them


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x float32 [..., K] by weight [N, K] plus bias [N] -> [..., N]. Differentiable by x alone."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    wanted = torch.is_grad_enabled() and x.requires_grad
    out = _Product.apply(rows, weight, bias) if wanted else _product(rows, weight, bias)
    return out.view(*x.shape[:-1], len(weight))


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    wanted, least = len(rows), 2 if torch.backends.mkldnn.is_available() else FEWEST
    if 0 < wanted < least:
        rows = torch.cat([rows, rows[-1:].expand(least - wanted, -1)])
    if torch.backends.mkldnn.is_available():
        out = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    else:
        out = F.linear(rows, weight, bias)
    return out[:wanted]


class _Product(torch.autograd.Function):
    """The product as part of a derivative: of what enters, weights staying as they are."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(gradients[0].contiguous(), weight.t().contiguous(), None), None, None


class RowLinear(nn.Linear):
    """`nn.Linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        return linear(input, self.weight, self.bias)


class RowSiLU(nn.SiLU):
    """`nn.SiLU`: x / (1 + exp(-x))."""

    def forward(self, input: Tensor) -> Tensor:
        """Like the input."""
        return input / (1 + torch.exp(-input)) if input.dtype == torch.float32 else F.silu(input)


class RowMish(nn.Mish):
    """`nn.Mish`: x tanh(ln(1 + e^x)), which is x n / (n + 2) with n = e^x (e^x + 2)."""

    def forward(self, input: Tensor) -> Tensor:
        """Like the input."""
        if input.dtype != torch.float32:
            return F.mish(input)
        exponential = torch.exp(input.clamp(max=20.0))  # from there on it is the input itself
        weight = exponential * (exponential + 2)
        return input * (weight / (weight + 2))


class RowConv1d(nn.Conv1d):
    """`nn.Conv1d` without groups or dilation: a product with each window."""

    def forward(self, input: Tensor) -> Tensor:
        """[n, i, T] -> [n, o, T']."""
        (kernel,), (stride,) = self.kernel_size, self.stride
        assert isinstance(self.padding, tuple)
        windows = F.pad(input, (self.padding[0], self.padding[0])).unfold(2, kernel, stride)  # n, i, T', kernel
        flat = windows.transpose(1, 2).flatten(2)
        return linear(flat, self.weight.flatten(1), self.bias).transpose(1, 2)


class RowConvTranspose1d(nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` whose kernel is as long as several strides: a product with each place, of which the pieces
    that fall on one another are added."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[n, i, T] -> [n, o, T']."""
        (kernel,), (stride,) = self.kernel_size, self.stride
        assert output_size is None, "a size other than the natural one"
        assert kernel % stride == 0, f"a kernel of {kernel} with a stride of {stride}"
        n, _, length = input.shape
        weight = self.weight.permute(1, 2, 0).flatten(0, 1)  # [o * kernel, i]
        made = linear(input.transpose(1, 2), weight).view(n, length, -1, kernel).transpose(1, 2)  # n, o, T, kernel
        out = made.new_zeros(n, made.shape[1], (length - 1) * stride + kernel)
        for first in range(0, kernel, stride):
            out[:, :, first : first + length * stride] += made[..., first : first + stride].flatten(2)
        assert isinstance(self.padding, tuple)
        cut = self.padding[0]
        out = out[:, :, cut : out.shape[2] - cut]
        return out if self.bias is None else out + self.bias[:, None]


class RowConv2d(nn.Conv2d):
    """`nn.Conv2d` by oneDNN, however few pictures there are."""

    def forward(self, input: Tensor) -> Tensor:
        """[n, i, h, w] -> [n, o, h', w']."""
        if not torch.backends.mkldnn.is_available() or isinstance(self.padding, str) or self.padding_mode != "zeros":
            return super().forward(input)
        return torch.ops.mkldnn._convolution_pointwise(
            input, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups, "none", [], ""
        )


class RowGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`, whose sums threads share among themselves where channels are laid out last."""

    def forward(self, input: Tensor) -> Tensor:
        """Like the input, channels first."""
        return super().forward(input.contiguous())


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: RowLinear,
    nn.SiLU: RowSiLU,
    nn.Mish: RowMish,
    nn.Conv1d: RowConv1d,
    nn.ConvTranspose1d: RowConvTranspose1d,
    nn.Conv2d: RowConv2d,
    nn.GroupNorm: RowGroupNorm,
}
