"""The deployed policy: observations in, action chunks in robot units out.

policy = BlmPolicy.load("runs/tiny/stage2-1a2b3c4d/model")
chunk = policy.infer(Observation(images=..., state=..., instruction="...", embodiment="panda"))
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from blm.model.checkpoint import Contract, load_policy, read_contract
from blm.model.embodiments import get_embodiment
from blm.model.errors import UserError
from blm.model.intents import IntentExtractor
from blm.model.policy import Policy, noise_shape
from blm.model.transforms import absolute_chunk
from blm.model.types import ActionChunk, Observation

EULER_STEPS = 4


class BlmPolicy:
    """MLLM up to block k, bridge and transformer, with the contract they were trained under."""

    def __init__(self, contract: Contract, extractor: IntentExtractor, policy: Policy, euler_steps: int) -> None:
        self.contract = contract
        self.euler_steps = euler_steps
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
    ) -> "BlmPolicy":
        """Load a checkpoint folder. UserError if it is missing, damaged, or its MLLM is not the one it was trained
        on."""
        folder = Path(folder)
        contract = read_contract(folder)
        extractor = IntentExtractor(
            folder, layer=contract.layer, max_text_tokens=contract.max_text_tokens, device=device, dtype=dtype
        )
        if extractor.fingerprint != contract.intents_fingerprint:
            raise UserError(
                f"{folder}: the MLLM's files are not those the policy was trained on; copy the checkpoint again"
            )
        return cls(contract, extractor, load_policy(folder, contract), euler_steps)

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
        images = [self._checked_images(observation) for observation in observations]
        intents = self._extractor.encode(images, [o.instruction for o in observations])
        states = intents.states.float()
        chunks: list[ActionChunk | None] = [None] * len(observations)
        for embodiment in sorted({o.embodiment for o in observations}):
            rows = [i for i, o in enumerate(observations) if o.embodiment == embodiment]
            statistics = self.contract.statistics[embodiment]
            state = np.stack([observations[i].state for i in rows]).astype(np.float32)
            noise = torch.stack([_noise(noise_shape(self.contract.policy, embodiment), seeds[i]) for i in rows])
            normalised = self._policy.sample(
                embodiment,
                torch.from_numpy(statistics.state.normalize(state)).to(states.device),
                states[rows],
                intents.mask[rows],
                noise.to(states.device),
                self.euler_steps,
            )
            relative = statistics.action.unnormalize(normalised.cpu().numpy())
            body = get_embodiment(embodiment)
            actions = absolute_chunk(relative, state)
            actions[..., :-1] = np.clip(actions[..., :-1], body.joint_lower_rad, body.joint_upper_rad)
            for row, chunk in zip(rows, actions, strict=True):
                chunks[row] = ActionChunk(actions=chunk, control_hz=body.control_hz)
        return [chunk for chunk in chunks if chunk is not None]

    def _checked_images(self, observation: Observation) -> dict[str, np.ndarray]:
        contract = self.contract
        if observation.embodiment not in contract.embodiments:
            raise UserError(
                f"this model was not trained for {observation.embodiment!r}; it knows {', '.join(contract.embodiments)}"
            )
        missing = [camera for camera in contract.cameras if camera not in observation.images]
        if missing:
            raise UserError(f"observation lacks camera {missing[0]!r}; send {', '.join(contract.cameras)}")
        side = contract.image_px
        for camera in contract.cameras:
            if observation.images[camera].shape != (side, side, 3):
                height, width = observation.images[camera].shape[:2]
                raise UserError(f"image {camera!r} is {width}x{height} px; resize it to {side}x{side} before sending")
        return {camera: observation.images[camera] for camera in contract.cameras}


def _noise(shape: tuple[int, int], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
