"""The deployed policy: observations in, action chunks in robot units out.

policy = BlmPolicy.load("runs/tiny/stage2-1a2b3c4d/model")
chunk = policy.infer(Observation(images=..., state=..., instruction="...", embodiment="panda"))
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from blm.model.acting import ActingPolicy
from blm.model.captured import ROWS, Captured, CudaGraphs
from blm.model.checkpoint import KIND, Contract, load_policy, read_contract
from blm.model.checkpoint_files import read_folder
from blm.model.errors import UserError
from blm.model.intents import IntentExtractor
from blm.model.invariant import make_invariant
from blm.model.layout import Layout
from blm.model.lower_blocks import LowerBlocks
from blm.model.policy import Policy
from blm.model.real_time import PrefixTensors, normalised_prefixes
from blm.model.training import cast_linears, fast_bfloat16
from blm.model.types import Prefixes

EULER_STEPS = 4


def load_policy_for(
    folder: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    euler_steps: int = EULER_STEPS,
    guidance: float = 1.0,
    invariant: bool = True,
    graphs: bool = True,
) -> ActingPolicy[Any]:
    """The policy in a checkpoint folder, whatever its kind. `euler_steps`, `guidance` and `graphs` concern ours alone.

    dtype: of a multimodal model's weights; on a GPU also of a policy's matrix products.
    invariant: on a CPU a row has the same bits in every batch. graphs: on a GPU chunks are denoised by CUDA graphs
    (`model/captured.py`). UserError if the folder is missing, damaged, or of a kind this version does not know.
    """
    folder = Path(folder)
    kind = read_folder(folder)["kind"]
    if kind == KIND:
        return BlmPolicy.load(
            folder,
            device=device,
            dtype=dtype,
            euler_steps=euler_steps,
            guidance=guidance,
            invariant=invariant,
            graphs=graphs,
        )
    if kind == "diffusion_policy":
        from blm.model.diffusion_policy import DiffusionPolicy

        return DiffusionPolicy.load(folder, device=device, dtype=dtype, invariant=invariant)
    raise UserError(f"{folder} holds a policy of kind {kind!r}; this version knows {KIND} and diffusion_policy")


class BlmPolicy(ActingPolicy[Contract]):
    """MLLM up to block k, bridge and transformer, with the contract they were trained under."""

    def __init__(
        self,
        contract: Contract,
        extractor: IntentExtractor,
        policy: Policy,
        euler_steps: int = EULER_STEPS,
        guidance: float = 1.0,
        *,
        invariant: bool = True,
        graphs: bool = True,
    ) -> None:
        """invariant: on a CPU the policy's layers become those of `model/invariant.py`; the extractor has its own say.
        graphs: as `load_policy_for`. UserError for guidance other than 1 if the policy was not trained for it."""
        if guidance != 1.0 and contract.policy.guidance_dropout == 0:
            raise UserError(
                f"guidance {guidance:g} needs a policy trained with stage2.policy.guidance_dropout above 0; use 1"
            )
        super().__init__(contract, torch.device(extractor.device), extractor.blocks.dtype)
        self._euler_steps = euler_steps
        self._guidance = guidance
        self._extractor = extractor
        self._policy = policy.to(extractor.device).requires_grad_(False)
        if invariant:
            make_invariant(self._policy)
        self._timetable = self._policy.timetable(euler_steps)
        if self._products is not None:
            cast_linears(self._policy, self._products)
        self._sample: Callable[..., Tensor] = self._sampled
        if self._device.type == "cuda" and graphs:
            self._sample, self._slow_at_first = Captured(self._sampled, CudaGraphs(self._device)), ROWS

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        euler_steps: int = EULER_STEPS,
        guidance: float = 1.0,
        invariant: bool = True,
        blocks: LowerBlocks | None = None,
        graphs: bool = True,
    ) -> "BlmPolicy":
        """Load a checkpoint folder; `dtype`, `invariant` and `graphs` as `load_policy_for`. blocks: of the folder's
        MLLM, if somebody has loaded it already; `dtype` is then theirs. UserError if the folder is missing, damaged, or
        its MLLM is not the one it was trained on."""
        folder = Path(folder)
        contract = read_contract(folder)
        precision: Literal["float32", "bfloat16"] = contract.intents_precision
        if not fast_bfloat16(torch.device(device)):
            precision = "float32"  # the better one, and there the faster one
        extractor = IntentExtractor(
            folder,
            layer=contract.layer,
            max_text_tokens=contract.max_text_tokens,
            device=device,
            dtype=dtype,
            precision=precision,
            invariant=invariant,
            blocks=blocks,
        )
        if extractor.fingerprint != contract.intents_fingerprint:
            raise UserError(
                f"{folder}: the MLLM's files are not those the policy was trained on; copy the checkpoint again"
            )
        policy = load_policy(folder, contract)
        return cls(contract, extractor, policy, euler_steps, guidance, invariant=invariant, graphs=graphs)

    def _look(self, pictures: Tensor, instructions: Sequence[str]) -> tuple[Tensor, ...]:
        intents = self._extractor.encode_stacked(pictures, instructions)
        return intents.states, intents.mask

    def _denoise(
        self, layout: Layout, state: np.ndarray, seen: tuple[Tensor, ...], seeds: list[int], prefixes: Prefixes | None
    ) -> Tensor:
        chunk = self.contract.policy.chunk
        actions = self.contract.statistics[layout.name].action
        known = normalised_prefixes(prefixes, state, layout, actions, chunk=chunk, device=self._device)
        given = (self._normalised_state(layout, state), *seen, self._noise(layout, chunk, seeds))
        if known is None:
            return self._sample(layout.name, *given)
        return self._sampled(layout.name, *given, prefixes=known)

    def _sampled(self, robot: str, *given: Tensor, prefixes: PrefixTensors | None = None) -> Tensor:
        steps, guidance = self._euler_steps, self._guidance
        with self._precision():
            return self._policy.sample(robot, *given, steps, guidance, prefixes=prefixes, timetable=self._timetable)
