"""vla-eval's protocol, version 1: episodes, one action an observation, every message in one envelope.

The harness takes single actions, so a chunk is handed out action by action; what it sends in between is answered
without being looked at. In live mode it streams observations without waiting for answers: then the newest one counts,
an inference runs beside the stream, and each observation is answered from the chunk in hand as far as it reaches.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from blm.model.description import PolicyDescription, description_to_wire
from blm.model.errors import UserError
from blm.model.types import Observation
from blm.model.wire import pack
from blm.serve.batches.answers import Timing
from blm.serve.sessions.contract import check_contract
from blm.serve.sessions.observations import read_seed
from blm.serve.sessions.session import (
    REFUSED,
    UNREADABLE,
    HungUpError,
    PolicyService,
    SessionConfig,
    Transport,
    complaint,
    read,
)

PROTOCOL_VERSION = 1
SERVER = "blm"


class VlaEvalSession:
    """One client's conversation: the episode it is in, and what is left of the chunk in execution."""

    def __init__(self, service: PolicyService, config: SessionConfig) -> None:
        self._service = service
        self._reader = config.reader(service.description)
        self._reset({})
        self.resting = True
        """As `Session`: no episode is going on."""

    def _reset(self, start: Mapping[Any, Any]) -> None:
        """Forget the last episode."""
        task = start.get("task")
        self._task: Mapping[Any, Any] = task if isinstance(task, Mapping) else {}
        self._live = start.get("mode") == "live"
        self._chunk: npt.NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self._timing: Timing | None = None
        """Of the look that the next action is the first of."""
        self._next = 0
        """Row of the chunk that answers the next observation."""
        self._looks = 0
        self._newest: tuple[int, Observation, int, float] | None = None
        """Live: sequence number, observation, seed and arrival of the newest observation that nobody has looked at."""
        self._answered = -1
        """Sequence number of the last observation that got an action."""

    async def run(self, transport: Transport) -> None:
        """As `Session`. A bad observation is told and the conversation goes on; one that is no message ends it."""
        looking: asyncio.Task[None] | None = None
        try:
            while True:
                try:
                    frame, came_s = await transport.receive(), time.perf_counter()
                    kind, payload, number = await read(frame, _opened)
                except UserError as error:
                    await transport.close(UNREADABLE, str(error)[:100])
                    return
                if kind == "hello":
                    if not await self._greeted(transport, payload, number):
                        return
                elif kind in ("episode_start", "episode_end"):
                    await _ended(looking)
                    looking = None
                    self._reset(payload if kind == "episode_start" else {})
                    self.resting = kind == "episode_end"
                elif kind == "observation" and self._live:
                    await self._stream(transport, payload, number, came_s)
                    if self._newest is not None and (looking is None or looking.done()):
                        looking = asyncio.create_task(self._look_on(transport))
                elif kind == "observation":
                    await transport.send(await self._answer(payload, number, came_s))
        finally:
            await _ended(looking)

    async def _greeted(self, transport: Transport, payload: Mapping[Any, Any], number: int) -> bool:
        """Whether the client was greeted; one that wants another model is told, and the connection closed."""
        try:
            check_contract(payload.get("contract"), self._reader)
        except UserError as error:
            await transport.send(envelope("error", {"error": complaint(error, self._service.metrics)}, number))
            await transport.close(REFUSED, "another contract")
            return False
        await transport.send(envelope("hello", self._hello(), number))
        return True

    def _hello(self) -> dict[str, Any]:
        description = self._service.description
        return {
            "harness_version": SERVER,
            "protocol_version": PROTOCOL_VERSION,
            "model_server": f"{SERVER}:{description.name}",
            "capabilities": {},
            **specifications(description),
            "blm": description_to_wire(description),
        }

    # ------------------------------------------------------------------------------------------ one action, one answer

    async def _answer(self, payload: Mapping[Any, Any], number: int, came_s: float) -> bytes:
        self.resting = False
        try:
            if self._next >= len(self._chunk):
                observation, seed = await self._seen(payload)
                await self._look(observation, seed, came_s)
            return self._action(number)
        except Exception as error:
            said = complaint(error, self._service.metrics)
            return envelope("error", {"error": f"observation_failed: {said}"}, number)

    async def _seen(self, payload: Mapping[Any, Any]) -> tuple[Observation, int]:
        if self._reader.resize:
            return await asyncio.to_thread(self._understood, payload)
        return self._understood(payload)

    def _understood(self, payload: Mapping[Any, Any]) -> tuple[Observation, int]:
        images = payload.get("images")
        observation = self._reader.observation(
            images if isinstance(images, Mapping) else {},
            payload.get("states", payload.get("state")),
            payload.get("task_description"),
            payload.get("embodiment") or self._task.get("embodiment"),
        )
        return observation, read_seed(payload.get("seed"), self._looks)

    async def _look(self, observation: Observation, seed: int, came_s: float) -> None:
        (answer,) = await self._service.infer([observation], [seed], protocol="vla-eval", began_s=came_s)
        self._looks += 1
        steps = len(answer.chunk.actions) if self._live else self._service.description.execute_steps
        self._chunk, self._next = np.asarray(answer.chunk.actions, np.float32)[:steps], 0
        self._timing = answer.timing

    def _action(self, number: int) -> bytes:
        self._next, self._answered = self._next + 1, number
        payload: dict[str, Any] = {"actions": np.ascontiguousarray(self._chunk[self._next - 1])}
        if self._timing is not None:  # plain numbers, which the harness hands on unread
            payload["timing"], self._timing = self._timing.to_wire(), None
        return envelope("action", payload, number)

    # -------------------------------------------------------------------------------------------------------- live mode

    async def _stream(self, transport: Transport, payload: Mapping[Any, Any], number: int, came_s: float) -> None:
        """Answer from the chunk in hand, and note the observation if it is time for another look."""
        if self._next < len(self._chunk):
            await transport.send(self._action(number))
        if self._next >= min(self._service.description.execute_steps, len(self._chunk)):
            try:
                observation, seed = await self._seen(payload)
            except UserError as error:
                said = complaint(error, self._service.metrics)
                await transport.send(envelope("error", {"error": f"observation_failed: {said}"}, number))
                return
            self._newest = (number, observation, seed, came_s)

    async def _look_on(self, transport: Transport) -> None:
        """Look at the newest observation until none is left that nobody has looked at.

        The chunk begins at the moment that was looked at: rows for the moments that have gone by meanwhile are skipped.
        """
        with contextlib.suppress(HungUpError):
            while self._newest is not None:
                seen, observation, seed, came_s = self._newest
                self._newest = None
                try:
                    await self._look(observation, seed, came_s)
                except Exception as error:
                    said = complaint(error, self._service.metrics)
                    await transport.send(envelope("error", {"error": f"observation_failed: {said}"}, seen))
                    continue
                now = self._newest[0] if self._newest is not None else seen
                self._newest, self._next = None, now - seen
                if now == self._answered:  # from the chunk before
                    self._next += 1
                elif self._next < len(self._chunk):
                    await transport.send(self._action(now))


async def _ended(task: "asyncio.Task[None] | None") -> None:
    """Stop looking."""
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def envelope(kind: str, payload: Mapping[str, Any], number: int) -> bytes:
    """One message."""
    return pack({"type": kind, "payload": payload, "seq": number, "timestamp": time.time()}, "vla-eval")


def _opened(message: Mapping[Any, Any]) -> tuple[str, Mapping[Any, Any], int]:
    """(type, payload, sequence number). UserError for what is no envelope."""
    kind, payload, number = message.get("type"), message.get("payload"), message.get("seq")
    if not isinstance(kind, str) or not isinstance(payload, Mapping) or type(number) is not int:
        raise UserError("a message needs type, payload and seq")
    return kind, payload, number


def specifications(description: PolicyDescription) -> dict[str, Any]:
    """What the harness compares with its benchmark, and hands on to its constructor (`observation_params`)."""
    sizes = {layout.action_dim for layout in description.layouts}
    joints = sizes.pop() - 1 if len(sizes) == 1 else 0
    specs = {"state": {"name": "state", "dims": 0, "format": "joint_positions"}}
    specs |= {camera: {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"} for camera in description.cameras}
    specs |= {"language": {"name": "language", "dims": 0, "format": "language"}}
    return {
        "observation_params": {
            "send_state": True,
            "send_wrist_image": "wrist" in description.cameras,
            "cameras": list(description.cameras),
            "image_px": description.image_px,
            "execute_steps": description.execute_steps,
        },
        "action_spec": {
            "joints": {"name": "joints", "dims": joints, "format": "absolute_joint_targets_rad"},
            "gripper": {"name": "gripper", "dims": 1, "format": "opening_01", "range": [0.0, 1.0]},
        },
        "observation_spec": specs,
    }
