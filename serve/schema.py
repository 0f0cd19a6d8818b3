"""What `/v1/actions` takes and gives, and the one form of every error: the OpenAI protocol's error object."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blm.model.types import Observation
from blm.serve.codec import decode_picture
from blm.serve.config import SERVED_NAME


class ActionRequest(BaseModel):
    """One observation of one robot."""

    model_config = ConfigDict(extra="forbid")

    embodiment: str = Field(description="robot body the model was trained for, for example panda")
    instruction: str = Field(description="the task in words")
    state: list[float] = Field(
        description="of an arm its joint positions in rad, then gripper opening in [0 closed, 1 open]"
    )
    images: dict[str, str] = Field(description="camera -> data URI of a PNG or JPEG")
    seed: int = Field(default=0, ge=0, lt=2**63, description="noise of the policy; the same seed gives the same chunk")
    model: str = Field(default=SERVED_NAME, description="the served model's name")

    def observation(self) -> Observation:
        """The observation, pictures decoded. UserError for what does not fit the robot."""
        import numpy as np

        return Observation(
            images={camera: decode_picture(text, camera) for camera, text in self.images.items()},
            state=np.asarray(self.state, dtype=np.float32),
            instruction=self.instruction,
            embodiment=self.embodiment,
        )


class Timing(BaseModel):
    """Where the time of one answer went."""

    queue_ms: float
    """Waiting for company in the batch, and for the batch before."""
    infer_ms: float
    """The forward pass of the whole batch."""
    total_ms: float
    """In the server altogether, decoding included."""
    batch: int
    """Observations in the batch."""


class ActionReply(BaseModel):
    """The next H actions, one a control step."""

    object: str = "action_chunk"
    model: str = SERVED_NAME
    embodiment: str
    actions: list[list[float]]
    """[H][A]: of an arm absolute joint targets in rad, then the gripper command in [0 closed, 1 open]."""
    names: list[str]
    """What the A numbers are."""
    control_hz: int
    """Actions a second."""
    timing: Timing


def error_object(message: str, status: int, *, param: str | None = None) -> dict[str, Any]:
    """The OpenAI protocol's error object."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def explain(error: ValidationError) -> tuple[str, str | None]:
    """The first thing wrong with a request, in words, and the field it is about.

    Never repeats the value: it may be a picture.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or None
    return f"{field}: {first['msg']}" if field else first["msg"], field
