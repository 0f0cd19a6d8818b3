"""`Engine` over vLLM: conversation, and actions by the policy inside vLLM's worker process."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from blm.model.description import PolicyDescription
from blm.model.errors import UserError
from blm.model.types import ActionChunk, ComputeTiming, Observation, Prefixes
from blm.serve.config import ServeConfig
from blm.serve.engine.engine import describe_served
from blm.serve.engine.options import actions_dtype
from blm.serve.engine.vllm_messages import pack_question, unpack_answer
from blm.serve.observability.logs import log

LOOK_S = 1.0
"""How often the engine is looked at while an answer is waited for."""


class VllmEngine:
    """Roles `unified` and `chat`."""

    def __init__(
        self, engine: Any, chat: ASGIApp, description: PolicyDescription | None, facts: Mapping[str, Any]
    ) -> None:
        """engine: vLLM's AsyncLLM; description: of the policy in its worker, if there is one."""
        self.description = description
        self.chat: ASGIApp | None = chat
        self.facts = facts
        self._engine = engine

    async def compute(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> tuple[list[ActionChunk], ComputeTiming]:
        """As `Engine`."""
        if self.description is None:
            raise UserError("this server was started for conversation only; start it without --chat-only")
        question = await asyncio.to_thread(pack_question, observations, seeds, prefixes)
        call = asyncio.ensure_future(self._engine.collective_rpc("act", args=(question,)))
        try:
            while not call.done():
                await asyncio.wait({call}, timeout=LOOK_S)
                if not call.done():
                    await self.check()  # nobody answers the calls of an engine that has died
            return unpack_answer(call.result()[0])  # with several GPUs every worker computes the same
        finally:
            call.cancel()

    async def check(self) -> None:
        """As `Engine`."""
        await self._engine.check_health()

    async def close(self) -> None:
        """As `Engine`."""
        self._engine.shutdown()


async def start_vllm(folder: Path, config: ServeConfig, *, device: str, with_policy: bool) -> VllmEngine:
    """vLLM over a model folder, with or without the policy in it. UserError for a policy that cannot be loaded."""
    from blm.model.checkpoint import KIND
    from blm.model.checkpoint_files import read_folder
    from blm.serve.engine.vllm_chat import start_chat

    contract = read_folder(folder, KIND) if with_policy else None
    engine, chat = await start_chat(folder, config, device)
    if contract is None:
        return VllmEngine(engine, chat, None, {"role": "chat"})
    actions = config.actions
    try:
        told = await engine.collective_rpc(
            "prepare_policy",
            args=(str(folder), actions.sharing, actions_dtype(actions, device), actions.cuda_graphs),
        )
        sharing, why = told[0]
        if sharing == "refused":
            raise UserError(why)
        log("engine", sharing=sharing, why=why)
        description = describe_served(contract)
        return VllmEngine(engine, chat, description, {"role": "unified", "sharing": sharing})
    except BaseException:
        engine.shutdown()
        raise
