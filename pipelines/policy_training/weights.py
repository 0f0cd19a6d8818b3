"""A policy's weights, gradients and average in a few flat pieces of memory.

A small network has hundreds of tensors of a few kilobytes. Clipping, averaging, sending and updating them one by one
costs more than the arithmetic on them; in one piece each of these is one call. What every tensor computes stays the
same, and so do names and shapes.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from blm.model.optim import ScheduledOptimizers, make_optimizers
from blm.model.options import OptimizerName

ALIGN = 16
"""Tensors begin at multiples of so many numbers: matrix kernels are slower on unaligned memory."""
FLOOR = 0.05
"""The cosine ends at this share of the peak learning rate."""


class Flat:
    """Several parameters in one piece of memory, of which they are views from then on."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Move `parameters` (at least one, of one type and device) together; their values stay."""
        places = _places(parameters)
        size = places[-1][1]
        first = parameters[0]
        with torch.no_grad():
            whole = torch.zeros(size, dtype=first.dtype, device=first.device)
            for parameter, (begin, _) in zip(parameters, places, strict=True):
                view = whole[begin : begin + parameter.numel()].view_as(parameter)
                view.copy_(parameter)
                parameter.data = view
        self.whole = nn.Parameter(whole, requires_grad=first.requires_grad)
        """All of them, float [n], with gaps of zeros."""
        self._parameters, self._places = list(parameters), places
        if first.requires_grad:
            self.whole.grad = torch.zeros_like(whole)
            for parameter, view in zip(parameters, self.views(self.whole.grad), strict=True):
                parameter.grad = view

    def views(self, whole: Tensor) -> Iterator[Tensor]:
        """The parameters' parts of a tensor like `whole`, in their shapes and order."""
        for parameter, (begin, _) in zip(self._parameters, self._places, strict=True):
            yield whole[begin : begin + parameter.numel()].view_as(parameter)

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """What it is made of, in order."""
        return self._parameters


class Weights:
    """Everything of a policy that changes in training: weights, their gradients, their average, optimiser state.

    Gradients are never None: a robot of which a step has no row has gradients of zero, on one worker as on several.
    """

    def __init__(
        self,
        policy: nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        steps: int,
        warmup: int,
        kind: OptimizerName = "adamw",
        muon: Sequence[nn.Module] = (),
    ) -> None:
        """kind, muon: as for `make_optimizers`."""
        self.policy = policy
        parts = make_optimizers(
            policy,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            kind=kind,
            muon=muon if kind == "muon" else (),
        )
        groups = [group for part in parts for group in part.param_groups]
        self._learning = [Flat(group["params"]) for group in groups]
        frozen = [parameter for parameter in policy.parameters() if not parameter.requires_grad]
        self._flats = [*self._learning, *([Flat(frozen)] if frozen else [])]
        for part in parts:
            if isinstance(part, torch.optim.AdamW):  # element by element, so that one long vector is the same
                for group in part.param_groups:
                    group["params"] = [_flat_of(group["params"][0], self._learning).whole]
        self.optimizers = ScheduledOptimizers(parts, steps=steps, warmup=warmup, floor=FLOOR)
        self._average = [flat.whole.detach().clone() for flat in self._flats]

    # -------------------------------------------------------------------------------------------------- gradients

    @property
    def _gradients(self) -> list[Tensor]:
        return [flat.whole.grad for flat in self._learning if flat.whole.grad is not None]

    def zero_gradients(self) -> None:
        """Forget the last step's."""
        torch._foreach_zero_(self._gradients)

    def add_up_gradients(self) -> None:
        """Over all workers."""
        if dist.get_world_size() > 1:
            for gradient in self._gradients:
                dist.all_reduce(gradient)

    def clip_gradients(self, limit: float) -> None:
        """Scale all gradients together so that their norm is at most `limit`."""
        gradients = self._gradients
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))

    def descend(self, loss: Tensor, *, clip_norm: float) -> None:
        """One step of the optimisers down the gradient of `loss`, a scalar of which every worker has its part."""
        self.zero_gradients()
        loss.backward()
        self.add_up_gradients()
        self.clip_gradients(clip_norm)
        self.optimizers.step()

    # ---------------------------------------------------------------------------------------------------- average

    @torch.no_grad()
    def update_average(self, step: int, decay: float) -> None:
        """Exponential moving average of all weights; early steps average faster (min(decay, (1+n)/(10+n)))."""
        rate = 1 - min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, [flat.whole for flat in self._flats], rate)

    @torch.no_grad()
    def swap_average(self) -> None:
        """Exchange the weights and their average; a second call undoes it."""
        for flat, average in zip(self._flats, self._average, strict=True):
            kept = flat.whole.clone()
            flat.whole.copy_(average)
            average.copy_(kept)

    def average_state(self) -> dict[str, Tensor]:
        """The averaged weights by name, as `state_dict` has them: what is exported. Views of this object's memory."""
        names = {id(parameter): name for name, parameter in self.policy.named_parameters()}
        state = dict(self.policy.state_dict())
        for flat, average in zip(self._flats, self._average, strict=True):
            for parameter, view in zip(flat.parameters, flat.views(average), strict=True):
                state[names[id(parameter)]] = view
        return state

    @torch.no_grad()
    def load_average(self, state: dict[str, Tensor]) -> None:
        """What `average_state` returned."""
        for name, tensor in self.average_state().items():
            tensor.copy_(state[name])


def _places(parameters: Sequence[nn.Parameter]) -> list[tuple[int, int]]:
    """Where each parameter begins, and where the next one may."""
    places, end = [], 0
    for parameter in parameters:
        begin = end
        end = begin + -(-parameter.numel() // ALIGN) * ALIGN
        places.append((begin, end))
    return places


def _flat_of(parameter: nn.Parameter, flats: Sequence[Flat]) -> Flat:
    return next(flat for flat in flats if any(one is parameter for one in flat.parameters))
