"""starVLA's protocol: the server says what it is, then each message holds examples and each answer their chunks.

    server  {"action_chunk_size", "available_unnorm_keys", "default_unnorm_key", "state_keys", "action_keys", ...}
    client  {"examples": [{"image": [uint8 [H, W, 3], ...], "lang": "...", "state": [S]}, ...], "unnorm_key": "panda"}
            or {"type": "infer" | "predict_action" | "ping", "request_id", "payload": {...}}
    server  {"status": "ok", "ok": true, "type": "inference_result", "request_id", "data": {"actions": [B, H, A]}}
            or {"status": "error", "ok": false, ..., "error": {"message": "..."}}

Pictures come in the order of the metadata's `cameras`. Its `unnorm_key` names statistics; ours belong to robots, so it
is the robot's name, and all examples of a message are of one. `seeds` and `contract` may be sent besides. The other
options of its models (`do_sample`, `num_ddim_steps`, ...) are ours to choose and are not looked at.
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
from blm.serve.sessions.observations import check_rows, read_seed
from blm.serve.sessions.session import PolicyService, SessionConfig, Transport, complaint, read

MOST_EXAMPLES = 256
"""In one message."""
_INFER, _PING = ("infer", "predict_action"), "ping"


class StarvlaSession:
    """One client's conversation. Stateless but for the noise of clients that send no seeds: they count from 0."""

    resting = False
    """starVLA's client does not connect again: it is let go on as long as can be."""

    def __init__(self, service: PolicyService, config: SessionConfig) -> None:
        self._service = service
        self._robot = config.robot
        self._reader = config.reader(service.description)
        self._answers = 0

    async def run(self, transport: Transport) -> None:
        """As `Session`. Errors are told in place of the answer, and the conversation goes on."""
        await transport.send(pack(metadata(self._service.description, self._robot)))
        while True:
            frame = await transport.receive()
            await transport.send(pack(await self._reply(frame)))

    async def _reply(self, frame: bytes | str) -> dict[str, Any]:
        began_s = time.perf_counter()
        head: dict[str, Any] = {"type": "inference_result", "request_id": "default"}

        def understand(message: dict[Any, Any]) -> tuple[list[Observation], list[int]]:
            head["request_id"] = message.get("request_id", "default")
            kind = message.get("type", "infer")
            if kind not in _INFER:
                head["type"] = kind if kind == _PING else "unknown"
                if kind != _PING:
                    raise UserError(f"a message of type {str(kind)[:40]!r}; send infer, predict_action or ping")
                return [], []
            payload = message.get("payload", message)
            if not isinstance(payload, Mapping):
                raise UserError("'payload' must be a map")
            return self._questions(payload)

        try:
            observations, seeds = await read(frame, understand)
            if not observations:
                return {"status": "ok", "ok": True, **head}
            answers = await self._service.infer(observations, seeds, protocol="starvla", began_s=began_s)
        except Exception as error:
            return {
                "status": "error",
                "ok": False,
                **head,
                "error": {"message": complaint(error, self._service.metrics)},
            }
        self._answers += len(answers)
        actions = np.stack([np.asarray(answer.chunk.actions, dtype=np.float32) for answer in answers])
        data = {"actions": actions, "control_hz": answers[0].chunk.control_hz}
        return {"status": "ok", "ok": True, **head, "data": data, "server_timing": answers[0].timing.to_wire()}

    def _questions(self, payload: Mapping[Any, Any]) -> tuple[list[Observation], list[int]]:
        examples = payload.get("examples")
        if not isinstance(examples, list) or not 1 <= len(examples) <= MOST_EXAMPLES:
            raise UserError(f"'examples' must be a list of 1 to {MOST_EXAMPLES}")
        robot = payload.get("unnorm_key") or payload.get("embodiment")
        check_contract(payload.get("contract"), self._reader, robot=robot)
        seeds = payload.get("seeds")
        rows = check_rows("seeds", seeds, len(examples)) if seeds is not None else [None] * len(examples)
        return (
            [self._observation(one, robot) for one in examples],
            [read_seed(seed, self._answers + row) for row, seed in enumerate(rows)],
        )

    def _observation(self, one: Any, robot: Any) -> Observation:
        if not isinstance(one, Mapping):
            raise UserError("an example is a map with image, lang and state")
        cameras = self._service.description.cameras
        pictures = one.get("image")
        pictures = pictures if isinstance(pictures, list | tuple) else [] if pictures is None else [pictures]
        if len(pictures) < len(cameras):
            raise UserError(f"an example of {len(pictures)} pictures; send {len(cameras)}, in order: {list(cameras)}")
        state = one.get("state")
        if isinstance(state, np.ndarray) and state.ndim == 2 and len(state) == 1:  # its clients send a history of one
            state = state[0]
        return self._reader.observation(dict(zip(cameras, pictures, strict=False)), state, one.get("lang"), robot)


def metadata(description: PolicyDescription, robot: str) -> dict[str, Any]:
    """What the client is told first, without arrays."""
    layout = description.layout(robot) if robot else description.layouts[0]
    return {
        "env": "blm_policy_server",
        "action_chunk_size": description.chunk,
        "available_unnorm_keys": list(description.robots),
        "default_unnorm_key": robot or (description.robots[0] if len(description.robots) == 1 else None),
        "model_state_dim": layout.state_dim,
        "model_action_dim": layout.action_dim,
        "state_keys": list(layout.state_names),
        "action_keys": list(layout.action_names),
        "training_obs_image_size": [description.image_px, description.image_px],
        "cameras": list(description.cameras),
        "blm": description_to_wire(description),
    }
