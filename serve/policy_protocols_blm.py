"""Our own protocol: whole batches of observations in one message, with seeds and chunks in execution.

    client  {"protocol": "blm", "version": 1}
    server  {"protocol": "blm", "version": 1, "description": {...}}
    client  {"id": 1, "observations": [{"images", "state", "instruction", "embodiment"}, ...], "seeds": [...],
             "prefixes": [{"actions", "frozen"} or nil, ...] or nil}
    server  {"id": 1, "chunks": [{"actions", "control_hz"}, ...]}   or   {"id": 1, "error": "..."}

Arrays are written in openpi's form. What a batch that came together is answered does not depend on what else the server
is asked meanwhile, as far as the policy's arithmetic allows.
"""

from typing import Any

import numpy as np

from blm.model.description import description_to_wire
from blm.model.errors import UserError
from blm.model.types import ActionPrefix, Observation
from blm.model.wire import pack
from blm.serve.policy_protocols import (
    UNREADABLE,
    BusyError,
    PolicyService,
    SessionConfig,
    Transport,
    read_message,
    read_observation,
    read_seed,
)

VERSION = 1
MOST_OBSERVATIONS = 256
"""In one message."""


class BlmSession:
    """One client's conversation; stateless."""

    def __init__(self, service: PolicyService, config: SessionConfig) -> None:
        self._service = service
        self._config = config

    async def run(self, transport: Transport) -> None:
        """As `Session`. Errors are told in place of the answer, and the conversation goes on."""
        hello = await read_message(await transport.receive())
        if hello.get("protocol") != "blm" or hello.get("version") != VERSION:
            await transport.close(UNREADABLE, f"this server speaks blm, version {VERSION}")
            return
        await transport.send(
            pack(
                {
                    "protocol": "blm",
                    "version": VERSION,
                    "description": description_to_wire(self._service.description),
                }
            )
        )
        while True:
            frame = await transport.receive()
            number: Any = None
            try:
                message = await read_message(frame)
                number = message.get("id")
                reply = {"id": number, "chunks": await self._answer(message)}
            except (UserError, BusyError) as error:
                reply = {"id": number, "error": str(error)}
            except Exception as error:
                reply = {"id": number, "error": f"the policy failed ({type(error).__name__}: {error})"}
            await transport.send(pack(reply))

    async def _answer(self, message: dict[Any, Any]) -> list[dict[str, Any]]:
        observations, seeds = message.get("observations"), message.get("seeds")
        prefixes = message.get("prefixes")
        if not isinstance(observations, list) or not 1 <= len(observations) <= MOST_OBSERVATIONS:
            raise UserError(f"'observations' must be a list of 1 to {MOST_OBSERVATIONS}")
        for what, value in (("seeds", seeds), ("prefixes", prefixes or [None] * len(observations))):
            if not isinstance(value, list) or len(value) != len(observations):
                raise UserError(f"'{what}' must be a list with one entry an observation")
        chunks = await self._service.infer(
            [self._observation(one) for one in observations],
            [read_seed(seed, 0) for seed in seeds or []],
            [_prefix(one) for one in prefixes] if prefixes else None,
        )
        return [
            {"actions": np.ascontiguousarray(chunk.actions, dtype=np.float32), "control_hz": chunk.control_hz}
            for chunk in chunks
        ]

    def _observation(self, one: Any) -> Observation:
        if not isinstance(one, dict) or not isinstance(one.get("images"), dict):
            raise UserError("an observation is a map with images, state, instruction and embodiment")
        return read_observation(
            one["images"],
            one.get("state"),
            one.get("instruction"),
            one.get("embodiment"),
            description=self._service.description,
            config=self._config,
        )


def _prefix(one: Any) -> ActionPrefix | None:
    if one is None:
        return None
    actions, frozen = (one.get("actions"), one.get("frozen")) if isinstance(one, dict) else (None, None)
    if not isinstance(actions, np.ndarray) or type(frozen) is not int:
        raise UserError("a prefix is a map with actions (an array) and frozen (a number of its rows)")
    return ActionPrefix(actions=actions.astype(np.float32), frozen=frozen)
