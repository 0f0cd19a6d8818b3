"""What a replica of the served model computes with: a policy, vLLM's conversation, or both in one.

engine = await start_engine(folder, config, device="cpu", role="unified")
chunks, timing = await engine.compute(observations, seeds)
await engine.chat(scope, receive, send)                       # vLLM's own web application

unified   vLLM, and the policy inside vLLM's worker process, on weights that vLLM holds (serve/engine/vllm_worker.py)
chat      vLLM alone
control   the policy alone, its multimodal model cut off above block k, in a thread of this process
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

from starlette.types import ASGIApp

from blm.model.description import PolicyDescription, describe_checkpoint
from blm.model.types import ActionChunk, ComputeTiming, Observation, Prefixes
from blm.serve.config import ServeConfig
from blm.serve.engine.options import actions_dtype

Role = Literal["unified", "chat", "control"]
EXECUTE_STEPS = 8
"""As `blm policy-server` has it."""


class Engine(Protocol):
    """What computes in a replica. Its methods belong to one event loop."""

    description: PolicyDescription | None
    """The policy as its clients must know it; None: conversation only."""
    chat: ASGIApp | None
    """vLLM's own web application, with all its routes; None: actions only."""
    facts: Mapping[str, Any]
    """What /health tells of it: `role`, and of a unified one `sharing`: `one` if policy and conversation look through
    one loaded multimodal model, `copies` if each looks through its own."""

    async def compute(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        """A chunk for each observation, by one pass. UserError for an observation that the policy does not take;
        one wrong observation fails the whole call."""

    async def check(self) -> None:
        """Raises when the engine is dead."""

    async def close(self) -> None:
        """Let the pass that runs end, and let go of everything, processes included."""


class Timed(Protocol):
    """A policy in this process."""

    def infer_timed(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        """As `ActingPolicy.infer_timed`."""


class LocalEngine:
    """A policy in a thread of this process: role `control`."""

    def __init__(self, policy: Timed, description: PolicyDescription) -> None:
        self.description: PolicyDescription | None = description
        self.chat: ASGIApp | None = None
        self.facts: Mapping[str, Any] = {"role": "control"}
        self._policy = policy
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")

    async def compute(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        """As `Engine`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._policy.infer_timed, observations, seeds, prefixes)

    async def check(self) -> None:
        """As `Engine`: a thread does not die by itself."""

    async def close(self) -> None:
        """As `Engine`."""
        self._thread.shutdown(wait=False, cancel_futures=True)


async def start_engine(folder: Path, config: ServeConfig, *, device: str, role: Role) -> Engine:
    """Load what the role needs from a checkpoint folder, on `cpu` or `cuda`; returns once it can be asked.

    UserError for a folder that is none, is damaged, or does not fit the configuration.
    """
    if role == "control":
        return await asyncio.to_thread(_load_local, folder, config, device)
    from blm.serve.engine.vllm_engine import start_vllm

    return await start_vllm(folder, config, device=device, with_policy=role == "unified")


def _load_local(folder: Path, config: ServeConfig, device: str) -> LocalEngine:
    import torch

    from blm.model.checkpoint_files import read_folder
    from blm.model.predictor import load_policy_for

    contract: dict[str, Any] = read_folder(folder)
    actions = config.actions
    dtype = getattr(torch, actions_dtype(actions, device))
    policy = load_policy_for(folder, device=device, dtype=dtype, graphs=actions.cuda_graphs)
    policy.warm_up()
    return LocalEngine(policy, describe_served(contract))


def describe_served(contract: dict[str, Any]) -> PolicyDescription:
    """The description under which a checkpoint is served; contract: what `checkpoint_files.read_folder` returns.

    A client that takes single actions gets EXECUTE_STEPS of a chunk before the next look, or all of a shorter one.
    """
    return describe_checkpoint(contract, min(EXECUTE_STEPS, int(contract["policy"]["chunk"])))
