"""Client of our own protocol: a whole batch in one message, and chunks in execution with it (see `blm.serve`)."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from blm.actors.remote.client import RemoteClient, read_reply
from blm.actors.remote.lines import Deadline, Line
from blm.actors.sim.policies import PolicyError
from blm.model.types import ActionChunk, Observation, Prefixes
from blm.model.wire import pack

VERSION = 1


class BlmClient(RemoteClient):
    """A policy behind `blm policy-server`."""

    _numbers = itertools.count(1)

    def infer_batch(
        self, observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None = None
    ) -> list[ActionChunk]:
        """As `RemoteClient`, prefixes included if the policy can go on from them."""
        if not observations:
            return []
        number = next(self._numbers)
        frame = pack(
            {
                "id": number,
                "observations": [_plain(observation) for observation in observations],
                "seeds": [int(seed) for seed in seeds],
                "prefixes": None
                if prefixes is None
                else [prefix and {"actions": prefix.actions, "frozen": prefix.frozen} for prefix in prefixes],
            }
        )

        def exchange(line: Line, deadline: Deadline) -> dict[Any, Any]:
            line.send(frame, deadline)
            return read_reply(line.receive(deadline))

        reply = self._lines.ask(exchange, Deadline(self.deadline_s))
        if reply.get("error") is not None:
            raise PolicyError(str(reply["error"]))
        chunks = reply.get("chunks")
        if reply.get("id") != number or not isinstance(chunks, list) or len(chunks) != len(observations):
            raise PolicyError(f"{self.url} answered something else than what it was asked")
        return [_chunk(chunk) for chunk in chunks]

    def _greet(self, line: Line, deadline: Deadline) -> Any:
        line.send(pack({"protocol": "blm", "version": VERSION}), deadline)
        hello = read_reply(line.receive(deadline))
        if hello.get("protocol") != "blm" or hello.get("version") != VERSION:
            raise PolicyError(f"{self.url} does not speak blm, version {VERSION}")
        return hello.get("description")


def _plain(observation: Observation) -> dict[str, Any]:
    return {
        "images": observation.images,
        "state": np.asarray(observation.state, dtype=np.float32),
        "instruction": observation.instruction,
        "embodiment": observation.embodiment,
    }


def _chunk(chunk: Any) -> ActionChunk:
    actions = chunk.get("actions") if isinstance(chunk, dict) else None
    if not isinstance(actions, np.ndarray) or not isinstance(chunk.get("control_hz"), int):
        raise PolicyError("a chunk without actions or control_hz")
    return ActionChunk(actions=actions, control_hz=chunk["control_hz"])
