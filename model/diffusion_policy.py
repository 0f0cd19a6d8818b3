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

from blm.model.acting import ActingPolicy
from blm.model.checkpoint_files import load_weights, read_folder, write_folder
from blm.model.diffusion_network import DiffusionNetwork
from blm.model.diffusion_options import DiffusionPolicyConfig
from blm.model.errors import UserError
from blm.model.invariant import make_invariant
from blm.model.layout import Layout, layout_from_json, layout_to_json
from blm.model.normalize import EmbodimentStatistics, statistics_from_json, statistics_to_json
from blm.model.types import Prefixes, refuse_prefixes

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


class DiffusionPolicy(ActingPolicy[DiffusionContract]):
    """Network and contract, asked for chunks."""

    def __init__(
        self,
        contract: DiffusionContract,
        network: DiffusionNetwork,
        *,
        device: str = "cpu",
        dtype: torch.dtype,
        invariant: bool = True,
    ) -> None:
        """invariant: on a CPU the network's layers become those of `model/invariant.py`."""
        super().__init__(contract, torch.device(device), dtype)
        self._network = network.to(device).eval().requires_grad_(False)
        if invariant:
            make_invariant(self._network)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        invariant: bool = True,
    ) -> "DiffusionPolicy":
        """Load a checkpoint folder; `invariant` as `load_policy_for`. UserError if it is missing or damaged."""
        folder = Path(folder)
        contract = read_diffusion_contract(folder)
        network = contract.build()
        load_weights(folder, network)
        return cls(contract, network, device=device, dtype=dtype, invariant=invariant)

    def _look(self, pictures: Tensor, instructions: Sequence[str]) -> tuple[Tensor, ...]:
        with self._precision():
            return self._network.look(pictures.to(self._device), instructions)

    def _denoise(
        self, layout: Layout, state: np.ndarray, seen: tuple[Tensor, ...], seeds: list[int], prefixes: Prefixes | None
    ) -> Tensor:
        refuse_prefixes(KIND, prefixes)
        noise = self._noise(layout, self.contract.chunk, seeds)
        felt = self._normalised_state(layout, state)
        with self._precision():
            return self._network.sample_for(layout.name, felt, *seen, noise, self.contract.policy.sample_timesteps)
