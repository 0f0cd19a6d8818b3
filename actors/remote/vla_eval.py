"""Client of vla-eval's protocol: its model servers, asked look by look.

They hand out a chunk action by action, one an observation, and forget what is left of it when an episode starts. So
each look is an episode to them: it is started, and the observation is sent as often as they make actions of one look
(`actions.rows` of the mapping). What a server remembers from look to look is lost with that.
"""

import time
from typing import Any

import numpy as np

from blm.actors.remote.client import RemoteClient, read_reply
from blm.actors.remote.mapping import RemoteMapping
from blm.actors.remote.translation import our_chunk, their_numbers, their_pictures
from blm.actors.sim.policies import PolicyError
from blm.model.embodiments import get_embodiment
from blm.model.types import ActionChunk, Observation
from blm.model.wire import pack
from blm.serve.client_lines import Deadline, Line

PROTOCOL_VERSION = 1
INSTRUCTION = "task_description"
"""The usual name of the instruction."""


class VlaEvalClient(RemoteClient):
    """A policy behind a model server of vla-eval."""

    def _greet(self, line: Line, deadline: Deadline) -> Any:
        number = self._send(line, deadline, "hello", {"harness_version": "blm", "protocol_version": PROTOCOL_VERSION})
        payload = self._receive(line, deadline, "hello", number)
        if payload.get("protocol_version", PROTOCOL_VERSION) != PROTOCOL_VERSION:
            raise PolicyError(f"{self.url} speaks version {payload['protocol_version']!r} of vla-eval's protocol")
        return payload.get("blm")

    def _ask(self, line: Line, deadline: Deadline, observation: Observation, seed: int) -> ActionChunk:
        mapping, key = self.mapping, self.mapping.actions.key if self.mapping is not None else "actions"
        payload = self._payload(observation, seed)
        task = {"name": observation.instruction, "embodiment": observation.embodiment}
        self._send(line, deadline, "episode_start", {"task": task})
        rows: list[Any] = []
        for _ in range(self._rows() or 1):
            number = self._send(line, deadline, "observation", payload)
            reply = self._receive(line, deadline, "action", number)
            if key not in reply:
                raise PolicyError(f"{self.url} answers without {key!r}; there is {sorted(map(str, reply))}")
            rows.append(np.asarray(reply[key]))
            if rows[-1].ndim == 2:  # the whole chunk at once
                break
        actions = rows[0] if rows[0].ndim == 2 else _stacked(rows)
        if mapping is not None:
            return our_chunk(mapping.actions, actions, observation)
        return ActionChunk(actions=actions, control_hz=get_embodiment(observation.embodiment).control_hz)

    def _rows(self) -> int | None:
        if self.mapping is not None:
            return self.mapping.actions.rows
        return self.description.execute_steps if self.description is not None else None

    def _payload(self, observation: Observation, seed: int) -> dict[str, Any]:
        mapping = self.mapping
        if mapping is not None:
            return {
                **mapping.constants,
                "images": their_pictures(mapping, observation),
                **their_numbers(mapping, observation),
                mapping.instruction or INSTRUCTION: observation.instruction,
            }
        return {
            "images": observation.images,
            "states": np.asarray(observation.state, dtype=np.float32),
            INSTRUCTION: observation.instruction,
            "embodiment": observation.embodiment,
            "seed": int(seed),
        }

    def _send(self, line: Line, deadline: Deadline, kind: str, payload: dict[str, Any]) -> int:
        """Send a message; its sequence number."""
        number = line.sent + 1
        form = self.mapping.picture_format if isinstance(self.mapping, RemoteMapping) else "raw"
        message = {"type": kind, "payload": payload, "seq": number, "timestamp": time.time()}
        line.send(pack(message, "vla-eval", pictures="png" if form == "png" else "raw"), deadline)
        return number

    def _receive(self, line: Line, deadline: Deadline, kind: str, number: int) -> dict[Any, Any]:
        """The payload of the answer to a message. PolicyError for an error, or the answer to something else."""
        message = read_reply(line.receive(deadline))
        payload = message.get("payload")
        if message.get("type") == "error":
            said = payload.get("error") if isinstance(payload, dict) else payload
            raise PolicyError(f"the server says: {str(said)[:300]}")
        if message.get("type") != kind or message.get("seq") != number or not isinstance(payload, dict):
            raise PolicyError(f"{self.url} answered {message.get('type')!r} when {kind!r} was due")
        return payload


def _stacked(rows: list[Any]) -> Any:
    if len({row.shape for row in rows}) != 1:
        raise PolicyError(f"actions of different shapes: {[list(row.shape) for row in rows][:4]}")
    return np.stack(rows)
