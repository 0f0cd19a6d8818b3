"""The Diffusion Policy as it acts: observations in, action chunks in robot units out, like our own policy.

policy = DiffusionPolicy.load("runs/tiny/baseline-1a2b3c4d/model")
chunk = policy.infer(Observation(images=..., state=..., instruction="...", embodiment="panda"))
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blm.model.checkpoint_files import load_weights, read_folder, write_folder
from blm.model.diffusion_network import DiffusionBatch, DiffusionNetwork
from blm.model.diffusion_options import DiffusionPolicyConfig
from blm.model.errors import UserError
from blm.model.layout import Layout, find_layout, layout_from_json, layout_to_json
from blm.model.normalize import EmbodimentStatistics, statistics_from_json, statistics_to_json
from blm.model.observations import pictures_of
from blm.model.policy_batch import PolicyGroup
from blm.model.transforms import absolute_chunk
from blm.model.types import ActionChunk, Observation

KIND = "diffusion_policy"


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionContract:
    """What `blm.json` holds: how observations must look, and how the network is built."""

    policy: DiffusionPolicyConfig
    """Size of the network."""
    layouts: tuple[Layout, ...]
    """Robots it was trained for."""
    cameras: tuple[str, ...]
    """Pictures an observation needs, in this order."""
    image_px: int
    """Side of the square pictures."""
    vocabulary: tuple[str, ...]
    """Words of the tasks it was trained on."""
    statistics: Mapping[str, EmbodimentStatistics]
    """Normalisation of each robot."""
    provenance: Mapping[str, Any]
    """Where it comes from."""

    @property
    def embodiments(self) -> tuple[str, ...]:
        """Names of its robots."""
        return tuple(layout.name for layout in self.layouts)

    @property
    def chunk(self) -> int:
        """Actions of a chunk."""
        return self.policy.chunk

    def build(self) -> DiffusionNetwork:
        """A network of this size, weights not yet loaded."""
        return DiffusionNetwork(self.policy, layouts=self.layouts, cameras=self.cameras, vocabulary=self.vocabulary)


def write_diffusion_policy(folder: Path, contract: DiffusionContract, weights: Mapping[str, Tensor]) -> None:
    """Write a checkpoint folder, complete or not at all."""
    data = {
        "kind": KIND,
        "policy": asdict(contract.policy),
        "embodiments": list(contract.embodiments),
        "layouts": [layout_to_json(layout) for layout in contract.layouts],
        "cameras": list(contract.cameras),
        "image_px": contract.image_px,
        "vocabulary": list(contract.vocabulary),
        "statistics": statistics_to_json(contract.statistics),
        "provenance": dict(contract.provenance),
    }
    write_folder(folder, data, weights, None)


def read_diffusion_contract(folder: Path) -> DiffusionContract:
    """The contract of a checkpoint. UserError if the folder holds no Diffusion Policy, or is damaged."""
    data = read_folder(folder, KIND)
    try:
        lists = {name: tuple(data["policy"][name]) for name in ("encoder_widths", "unet_widths")}
        return DiffusionContract(
            policy=DiffusionPolicyConfig(**data["policy"] | lists),
            layouts=tuple(layout_from_json(layout) for layout in data["layouts"]),
            cameras=tuple(data["cameras"]),
            image_px=data["image_px"],
            vocabulary=tuple(data["vocabulary"]),
            statistics=statistics_from_json(data["statistics"]),
            provenance=data["provenance"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'blm.json'} is damaged ({error}); copy the checkpoint again") from error


class DiffusionPolicy:
    """Network and contract, asked for chunks."""

    def __init__(
        self, contract: DiffusionContract, network: DiffusionNetwork, *, device: str = "cpu", dtype: torch.dtype
    ) -> None:
        self.contract = contract
        self._network = network.to(device).eval()
        self._device = torch.device(device)
        self._autocast = dtype if dtype in (torch.bfloat16, torch.float16) and self._device.type == "cuda" else None
        self._calls = 0

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> "DiffusionPolicy":
        """Load a checkpoint folder. UserError if it is missing or damaged."""
        folder = Path(folder)
        contract = read_diffusion_contract(folder)
        network = contract.build()
        load_weights(folder, network)
        return cls(contract, network, device=device, dtype=dtype)

    def reset(self) -> None:
        """Forget the episode: noise for calls without a seed starts over."""
        self._calls = 0

    def infer(self, observation: Observation) -> ActionChunk:
        """One chunk. The noise follows from the number of calls since `reset`."""
        self._calls += 1
        return self.infer_batch([observation], [self._calls - 1])[0]

    def infer_batch(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[ActionChunk]:
        """One chunk an observation, of any robots mixed, within their limits. A row's noise follows from its seed.

        UserError for a robot, camera or picture size other than the contract's.
        """
        assert len(observations) == len(seeds), f"{len(observations)} observations with {len(seeds)} seeds"
        contract = self.contract
        layouts = [find_layout(contract.layouts, observation.embodiment) for observation in observations]
        pictures = [
            np.stack(list(pictures_of(one, layout, cameras=contract.cameras, image_px=contract.image_px).values()))
            for one, layout in zip(observations, layouts, strict=True)
        ]
        chunks: dict[int, ActionChunk] = {}
        for layout in self.contract.layouts:
            rows = [i for i, observation in enumerate(observations) if observation.embodiment == layout.name]
            if rows:
                state = np.stack([observations[i].state for i in rows]).astype(np.float32)
                batch = self._batch(layout, state, [pictures[i] for i in rows], [observations[i] for i in rows])
                noise = torch.stack([self._noise(layout, seeds[i]) for i in rows]).to(self._device)
                with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
                    normalised = self._network.sample(batch, noise, self.contract.policy.sample_timesteps)
                relative = self.contract.statistics[layout.name].action.unnormalize(normalised.float().cpu().numpy())
                for row, actions in zip(rows, absolute_chunk(relative, state, layout), strict=True):
                    chunks[row] = ActionChunk(actions=actions, control_hz=layout.control_hz)
        return [chunks[i] for i in range(len(observations))]

    def _batch(
        self, layout: Layout, state: np.ndarray, pictures: list[np.ndarray], observations: list[Observation]
    ) -> DiffusionBatch:
        normalised = torch.from_numpy(self.contract.statistics[layout.name].state.normalize(state)).to(self._device)
        shape = (len(state), self.contract.chunk)
        group = PolicyGroup(
            embodiment=layout.name,
            state=normalised,
            actions=torch.zeros(*shape, layout.action_dim),
            is_pad=torch.zeros(shape, dtype=torch.bool),
        )
        return DiffusionBatch(
            groups=[group],
            pictures=torch.from_numpy(np.stack(pictures)).to(self._device),
            instructions=[observation.instruction for observation in observations],
            place=torch.arange(len(state)),
        )

    def _noise(self, layout: Layout, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.contract.chunk, layout.action_dim, generator=generator)
