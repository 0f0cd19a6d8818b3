"""openpi's protocol: the server says what it is, then each message is an observation and each answer a chunk.

A client of another dialect of openpi (other names of cameras and states) is understood through `SessionConfig.cameras`
and the rules of `_cameras`; the state is `observation/state`. Beside what openpi knows, an observation may name its
`embodiment`, the `seed` of its noise, and the `contract` that its client relies on. Answers hold one array, the
actions: openpi's chunk broker slices every array.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from blm.model.description import PolicyDescription, description_to_wire
from blm.model.errors import UserError
from blm.model.types import Observation
from blm.model.wire import pack
from blm.serve.sessions.contract import check_contract
from blm.serve.sessions.observations import read_seed
from blm.serve.sessions.session import (
    FAILED,
    BusyError,
    PolicyService,
    SessionConfig,
    Transport,
    complaint,
    read,
)

_PREFIX = "observation/"


class OpenpiSession:
    """One client's conversation. Stateless but for the noise of clients that send no seed: they count from 0."""

    resting = False
    """openpi's client does not connect again: it is let go on as long as can be."""

    def __init__(self, service: PolicyService, config: SessionConfig) -> None:
        self._service = service
        self._config = config
        self._reader = config.reader(service.description)
        self._answers = 0

    async def run(self, transport: Transport) -> None:
        """As `Session`. A bad observation is told in a text frame, which the client raises, and the next may be better;
        after a failure of the policy the connection is closed."""
        await transport.send(pack(metadata(self._service.description, self._config)))
        previous_ms: float | None = None
        while True:
            frame = await transport.receive()
            began_s = time.perf_counter()
            try:
                reply = await self._answer(frame, began_s, previous_ms)
            except Exception as error:
                await transport.send(complaint(error, self._service.metrics))
                if not isinstance(error, UserError | BusyError):
                    await transport.close(FAILED, "the policy failed")
                    return
                continue
            await transport.send(reply)
            previous_ms = 1e3 * (time.perf_counter() - began_s)

    async def _answer(self, frame: bytes | str, began_s: float, previous_ms: float | None) -> bytes:
        observation, seed = await read(frame, self._question)
        asked_s = time.perf_counter()
        (answer,) = await self._service.infer([observation], [seed], protocol="openpi", began_s=began_s)
        self._answers += 1
        timing = {"infer_ms": round(1e3 * (time.perf_counter() - asked_s), 3), **answer.timing.to_wire()}
        if previous_ms is not None:
            timing["prev_total_ms"] = round(previous_ms, 3)
        actions = np.ascontiguousarray(answer.chunk.actions, dtype=np.float32)
        return pack({"actions": actions, "control_hz": answer.chunk.control_hz, "server_timing": timing})

    def _question(self, message: dict[Any, Any]) -> tuple[Observation, int]:
        robot = message.get("embodiment")
        check_contract(message.get("contract"), self._reader, robot=robot)
        observation = self._reader.observation(
            _cameras(message, self._service.description.cameras, self._config.cameras),
            message.get("observation/state", message.get("state")),
            message.get("prompt"),
            robot,
        )
        return observation, read_seed(message.get("seed"), self._answers)


def metadata(description: PolicyDescription, config: SessionConfig) -> dict[str, Any]:
    """What the client is told first: the contract, without arrays, and the names under which things are to be sent."""
    return {
        "blm": description_to_wire(description),
        "pictures": [f"{_PREFIX}images/{camera}" for camera in description.cameras],
        "image_px": description.image_px,
        "state": "observation/state",
        "robot": config.robot or description.robots[0],
        "action_horizon": description.chunk,
        "actions": "absolute joint targets in rad, then the gripper's opening in [0 closed, 1 open]",
    }


def _cameras(message: Mapping[Any, Any], cameras: tuple[str, ...], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Camera -> picture. `observation/images/front` and `observation/front_image` are of `front`, a bare
    `observation/image` of the first camera; a map `images` is taken as it is."""
    nested = message.get("images")
    found: dict[str, Any] = dict(nested) if isinstance(nested, Mapping) else {}
    for key, value in message.items():
        if isinstance(key, str) and key.startswith(_PREFIX) and isinstance(value, np.ndarray) and value.ndim > 1:
            name = key.rsplit("/", 1)[-1]
            if name == "image" and name not in renamed and cameras:
                name = cameras[0]
            found[name if name in renamed else name.removesuffix("_image")] = value
    return found
