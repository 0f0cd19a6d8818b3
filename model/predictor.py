"""The deployed policy: observations in, action chunks in robot units out.

policy = BlmPolicy.load("runs/tiny/stage2-1a2b3c4d/model")
chunk = policy.infer(Observation(images=..., state=..., instruction="...", embodiment="panda"))
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from blm.model.checkpoint import KIND, Contract, load_policy, read_contract
from blm.model.checkpoint_files import read_folder
from blm.model.errors import UserError
from blm.model.intents import IntentExtractor, Intents
from blm.model.layout import Layout
from blm.model.observations import pictures_of
from blm.model.policy import Policy
from blm.model.training import fast_bfloat16
from blm.model.transforms import absolute_chunk
from blm.model.types import ActionChunk, Observation

EULER_STEPS = 4


class Predictor(Protocol):
    """A policy loaded from a checkpoint of any kind."""

    def infer_batch(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[ActionChunk]:
        """A chunk for each observation; its noise follows from its seed."""


def load_policy_for(
    folder: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    euler_steps: int = EULER_STEPS,
    guidance: float = 1.0,
) -> Predictor:
    """The policy in a checkpoint folder, whatever its kind. `euler_steps` and `guidance` concern ours alone.

    UserError if the folder is missing, damaged, or of a kind this version does not know.
    """
    folder = Path(folder)
    kind = read_folder(folder)["kind"]
    if kind == KIND:
        return BlmPolicy.load(folder, device=device, dtype=dtype, euler_steps=euler_steps, guidance=guidance)
    if kind == "diffusion_policy":
        from blm.model.diffusion_policy import DiffusionPolicy

        return DiffusionPolicy.load(folder, device=device, dtype=dtype)
    raise UserError(f"{folder} holds a policy of kind {kind!r}; this version knows {KIND} and diffusion_policy")


class BlmPolicy:
    """MLLM up to block k, bridge and transformer, with the contract they were trained under."""

    def __init__(
        self,
        contract: Contract,
        extractor: IntentExtractor,
        policy: Policy,
        euler_steps: int = EULER_STEPS,
        guidance: float = 1.0,
    ) -> None:
        """UserError for guidance other than 1 if the policy was not trained for it."""
        if guidance != 1.0 and contract.policy.guidance_dropout == 0:
            raise UserError(
                f"guidance {guidance:g} needs a policy trained with stage2.policy.guidance_dropout above 0; use 1"
            )
        self.contract = contract
        self.euler_steps = euler_steps
        self.guidance = guidance
        self._extractor = extractor
        self._policy = policy.to(extractor.device)
        self._calls = 0

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        euler_steps: int = EULER_STEPS,
        guidance: float = 1.0,
    ) -> "BlmPolicy":
        """Load a checkpoint folder. UserError if it is missing, damaged, or its MLLM is not the one it was trained
        on."""
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
        )
        if extractor.fingerprint != contract.intents_fingerprint:
            raise UserError(
                f"{folder}: the MLLM's files are not those the policy was trained on; copy the checkpoint again"
            )
        return cls(contract, extractor, load_policy(folder, contract), euler_steps, guidance)

    def reset(self) -> None:
        """Forget the episode: noise for calls without a seed starts over."""
        self._calls = 0

    def infer(self, observation: Observation) -> ActionChunk:
        """One chunk. The noise follows from the number of calls since `reset`."""
        self._calls += 1
        return self.infer_batch([observation], [self._calls - 1])[0]

    def infer_batch(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[ActionChunk]:
        """One chunk an observation, of any robots mixed, joint targets within the robot's limits.

        A row's noise follows from its seed alone, and no row sees another: what else is in the batch changes an answer
        by rounding only (matrix products of another size add up in another order; about 1e-6 rad on CPU in float32).
        The same batch gives the same bits. UserError for a robot, camera or picture size other than the contract's.
        """
        assert len(observations) == len(seeds), f"{len(observations)} observations with {len(seeds)} seeds"
        if not observations:
            return []
        layouts = [self.contract.layout(observation.embodiment) for observation in observations]
        images = [
            pictures_of(one, layout, cameras=self.contract.cameras, image_px=self.contract.image_px)
            for one, layout in zip(observations, layouts, strict=True)
        ]
        intents = self._extractor.encode(images, [o.instruction for o in observations])
        chunks: dict[int, ActionChunk] = {}
        for layout in self.contract.layouts:
            rows = [i for i, own in enumerate(layouts) if own is layout]
            if rows:
                state = np.stack([observations[i].state for i in rows]).astype(np.float32)
                actions = self._actions(layout, state, intents, rows, [seeds[i] for i in rows])
                for row, chunk in zip(rows, actions, strict=True):
                    chunks[row] = ActionChunk(actions=chunk, control_hz=layout.control_hz)
        return [chunks[row] for row in range(len(observations))]

    def _actions(
        self, layout: Layout, state: np.ndarray, intents: Intents, rows: list[int], seeds: list[int]
    ) -> np.ndarray:
        """Actions float32 [b, H, A] of one robot's rows of a batch."""
        statistics = self.contract.statistics[layout.name]
        shape = (self.contract.policy.chunk, layout.action_dim)
        device = intents.states.device
        normalised = self._policy.sample(
            layout.name,
            torch.from_numpy(statistics.state.normalize(state)).to(device),
            intents.states[rows],
            intents.mask[rows],
            torch.stack([_noise(shape, seed) for seed in seeds]).to(device),
            self.euler_steps,
            self.guidance,
        )
        return absolute_chunk(statistics.action.unnormalize(normalised.cpu().numpy()), state, layout)


def _noise(shape: tuple[int, int], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
