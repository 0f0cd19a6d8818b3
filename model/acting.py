"""What every policy loaded from a checkpoint does alike when it acts: take observations of any robots mixed, tell
wrong ones, draw each row's noise from its seed, and give chunks back in robot units.
"""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from blm.model.layout import Layout, find_layout
from blm.model.normalize import EmbodimentStatistics
from blm.model.observations import pictures_of
from blm.model.transforms import absolute_chunk
from blm.model.types import ActionChunk, ComputeTiming, Observation, Prefixes

HALF = (torch.bfloat16, torch.float16)


class ActingContract(Protocol):
    """What a checkpoint says of the observations that its policy takes."""

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Its robots."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Pictures of an observation, in this order."""

    @property
    def image_px(self) -> int:
        """Side of the square pictures."""

    @property
    def statistics(self) -> Mapping[str, EmbodimentStatistics]:
        """Normalisation of each robot."""


ContractT = TypeVar("ContractT", bound=ActingContract)


class ActingPolicy(ABC, Generic[ContractT]):
    """A policy loaded from a checkpoint of any kind."""

    def __init__(self, contract: ContractT, device: torch.device, dtype: torch.dtype) -> None:
        """dtype: of matrix products on a GPU; sums and steps stay float32."""
        self.contract, self._device = contract, device
        self._products = dtype if device.type == "cuda" and dtype in HALF else None
        self._calls = 0
        self._slow_at_first: tuple[int, ...] = (1,)

    def warm_up(self) -> None:
        """Answer blank observations of each robot, in batches of the sizes that take longer the first time."""
        blank = np.zeros((self.contract.image_px, self.contract.image_px, 3), dtype=np.uint8)
        for layout in self.contract.layouts:
            seen = Observation(
                images=dict.fromkeys(self.contract.cameras, blank),
                state=np.zeros(layout.state_dim, dtype=np.float32),
                instruction="wait",
                embodiment=layout.name,
            )
            for rows in self._slow_at_first:
                self.infer_batch([seen] * rows, [0] * rows)

    def reset(self) -> None:
        """Forget the episode: noise for calls without a seed starts over."""
        self._calls = 0

    def infer(self, observation: Observation) -> ActionChunk:
        """One chunk. The noise follows from the number of calls since `reset`."""
        self._calls += 1
        return self.infer_batch([observation], [self._calls - 1])[0]

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """One chunk an observation, of any robots mixed, within the robots' limits.

        A row's noise follows from its seed alone, and no row sees another. Of a policy that was loaded `invariant`, on
        a CPU, the same row gives the same bits whatever else is in the batch; otherwise the batch changes an answer by
        rounding (docs/determinism.md). prefixes: what of the chunks in execution is left, for policies that can go on
        from it. UserError for a robot, camera or picture size other than the contract's, and for a prefix where the
        policy takes none.
        """
        return self.infer_timed(observations, seeds, prefixes)[0]

    def infer_timed(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        """As `infer_batch`, with what took how long; on a GPU each part is waited for, which costs nothing here, since
        the next one needs its numbers on the host or starts at once."""
        assert len(observations) == len(seeds), f"{len(observations)} observations with {len(seeds)} seeds"
        assert prefixes is None or len(prefixes) == len(seeds), (
            f"{len(seeds)} seeds with {len(prefixes or ())} prefixes"
        )
        if not observations:
            return [], ComputeTiming(preprocess_ms=0.0, mllm_ms=0.0, denoise_ms=0.0)
        clock = [time.perf_counter()]
        contract = self.contract
        layouts = [find_layout(contract.layouts, observation.embodiment) for observation in observations]
        pictures = [
            np.stack(list(pictures_of(one, layout, cameras=contract.cameras, image_px=contract.image_px).values()))
            for one, layout in zip(observations, layouts, strict=True)
        ]
        stacked = torch.from_numpy(np.stack(pictures))
        clock.append(time.perf_counter())
        seen = self._look(stacked, [one.instruction for one in observations])
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        clock.append(time.perf_counter())
        chunks: dict[int, ActionChunk] = {}
        for layout in contract.layouts:
            rows = [row for row, own in enumerate(layouts) if own is layout]
            if rows:
                state = np.stack([observations[row].state for row in rows]).astype(np.float32)
                known = None if prefixes is None else [prefixes[row] for row in rows]
                mine = tuple(part[rows] for part in seen)
                normalised = self._denoise(layout, state, mine, [seeds[row] for row in rows], known)
                relative = contract.statistics[layout.name].action.unnormalize(normalised.float().cpu().numpy())
                for row, actions in zip(rows, absolute_chunk(relative, state, layout), strict=True):
                    chunks[row] = ActionChunk(actions=actions, control_hz=layout.control_hz)
        clock.append(time.perf_counter())
        preprocess_ms, mllm_ms, denoise_ms = (1e3 * (b - a) for a, b in itertools.pairwise(clock))
        timing = ComputeTiming(preprocess_ms=preprocess_ms, mllm_ms=mllm_ms, denoise_ms=denoise_ms)
        return [chunks[row] for row in range(len(observations))], timing

    @abstractmethod
    def _look(self, pictures: Tensor, instructions: Sequence[str]) -> tuple[Tensor, ...]:
        """What the policy makes of pictures uint8 [B, cameras, px, px, 3] and instructions, of all robots at once:
        tensors [B, ...]."""

    @abstractmethod
    def _denoise(
        self, layout: Layout, state: np.ndarray, seen: tuple[Tensor, ...], seeds: list[int], prefixes: Prefixes | None
    ) -> Tensor:
        """Normalised chunks [b, H, A] of one robot's rows: state [b, S] in robot units, and what was made of what they
        see."""

    def _precision(self) -> torch.autocast:
        """For what the policy computes."""
        return torch.autocast(self._device.type, self._products, enabled=self._products is not None)

    def _normalised_state(self, layout: Layout, state: np.ndarray) -> Tensor:
        return torch.from_numpy(self.contract.statistics[layout.name].state.normalize(state)).to(self._device)

    def _noise(self, layout: Layout, chunk: int, seeds: list[int]) -> Tensor:
        """float32 [b, chunk, A], each row from its seed, on CPU, so that every device starts from the same."""
        shape = (chunk, layout.action_dim)
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(drawn).to(self._device)
