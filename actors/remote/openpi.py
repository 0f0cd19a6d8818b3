"""Client of openpi's protocol: an observation in, a chunk out, as the servers of pi0 and its relatives speak.

The server speaks first. One that is ours says what it needs; any other needs a mapping.
"""

from typing import Any

import numpy as np

from blm.actors.remote.client import RemoteClient, read_reply
from blm.actors.remote.translation import our_chunk, their_numbers, their_pictures
from blm.actors.sim.policies import PolicyError
from blm.model.embodiments import get_embodiment
from blm.model.types import ActionChunk, Observation
from blm.model.wire import pack
from blm.serve.client_lines import Deadline, Line

PROMPT = "prompt"
"""The usual name of the instruction."""


class OpenpiClient(RemoteClient):
    """A policy behind a server of openpi's protocol."""

    def _greet(self, line: Line, deadline: Deadline) -> Any:
        return read_reply(line.receive(deadline)).get("blm")

    def _ask(self, line: Line, deadline: Deadline, observation: Observation, seed: int) -> ActionChunk:
        line.send(pack(self._message(observation, seed)), deadline)
        reply = read_reply(line.receive(deadline))
        mapping = self.mapping
        key = mapping.actions.key if mapping is not None else "actions"
        if key not in reply:
            raise PolicyError(f"{self.url} answers without {key!r}; there is {sorted(map(str, reply))}")
        if mapping is not None:
            return our_chunk(mapping.actions, reply[key], observation)
        hz = reply.get("control_hz", get_embodiment(observation.embodiment).control_hz)
        return ActionChunk(actions=np.asarray(reply[key]), control_hz=int(hz))

    def _message(self, observation: Observation, seed: int) -> dict[str, Any]:
        mapping = self.mapping
        if mapping is not None:
            return {
                **mapping.constants,
                **their_pictures(mapping, observation),
                **their_numbers(mapping, observation),
                mapping.instruction or PROMPT: observation.instruction,
            }
        return {
            **{f"observation/images/{camera}": picture for camera, picture in observation.images.items()},
            "observation/state": np.asarray(observation.state, dtype=np.float32),
            PROMPT: observation.instruction,
            "embodiment": observation.embodiment,
            "seed": int(seed),
        }
