"""What `/v1/actions` takes and gives, and the one form of every error: the OpenAI protocol's error object."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blm.model.errors import UserError
from blm.model.types import Observation
from blm.serve.config import SERVED_NAME
from blm.serve.sessions.contract import check_contract
from blm.serve.sessions.observations import Reader, read_seed

_DOCUMENTED = ConfigDict(use_attribute_docstrings=True)


class ActionRequest(BaseModel):
    """One observation of one robot.

    As `application/msgpack` the same map, in which `state` may be an array, and a picture an array uint8 [H, W, 3] or
    the bytes of a PNG or JPEG.
    """

    model_config = ConfigDict(extra="forbid")

    embodiment: str | None = Field(
        default=None,
        description="robot body the model was trained for, for example panda; may be left out if it has one",
    )
    instruction: str = Field(description="the task in words")
    state: list[float] = Field(
        description="of an arm its joint positions in rad, then gripper opening in [0 closed, 1 open]"
    )
    images: dict[str, str] = Field(description="camera -> data URI of a PNG or JPEG")
    seed: int = Field(default=0, ge=0, lt=2**63, description="noise of the policy; the same seed gives the same chunk")
    model: str = Field(default=SERVED_NAME, description="the served model's name")
    contract: dict[str, Any] | None = Field(
        default=None,
        description="what the client relies on: any of embodiment, cameras, image_px, state, state_units, actions,"
        " action_units, control_hz, chunk, identity, normalisation, as /v1/contract has them; what differs is refused",
    )


def read_question(fields: dict[Any, Any], reader: Reader) -> tuple[Observation, int]:
    """An observation and its seed, of a request's fields, pictures decoded. UserError for what does not fit."""
    robot = fields.get("embodiment")
    check_contract(fields.get("contract"), reader, robot=robot)
    images = fields.get("images")
    if not isinstance(images, dict):
        raise UserError("'images' must be a map from cameras to pictures")
    observation = reader.observation(images, fields.get("state"), fields.get("instruction"), robot)
    return observation, read_seed(fields.get("seed"), 0)


class ActionTiming(BaseModel):
    """Where the time of one answer went."""

    model_config = _DOCUMENTED

    queue_ms: float
    """Waiting for company in the batch, and for the batch before."""
    preprocess_ms: float
    """Of the whole batch: pictures and words made ready."""
    mllm_ms: float
    """Of the whole batch: the multimodal model's lower blocks."""
    denoise_ms: float
    """Of the whole batch: the policy."""
    total_ms: float
    """In the server altogether, decoding included."""
    batch: int
    """Observations in the batch."""


class ActionReply(BaseModel):
    """The next H actions, one a control step."""

    model_config = _DOCUMENTED

    object: str = "action_chunk"
    model: str = SERVED_NAME
    embodiment: str
    actions: list[list[float]]
    """[H][A]: of an arm absolute joint targets in rad, then the gripper command in [0 closed, 1 open]."""
    names: list[str]
    """What the A numbers are."""
    control_hz: int
    """Actions a second."""
    timing: ActionTiming


class ErrorBody(BaseModel):
    """What is wrong."""

    model_config = _DOCUMENTED

    message: str
    """In one line, with what to do about it."""
    type: str
    """`invalid_request_error` or `server_error`."""
    param: str | None
    """The field it is about."""
    code: int
    """The status."""


class ErrorReply(BaseModel):
    """The OpenAI protocol's error object."""

    error: ErrorBody


def error_object(message: str, status: int, *, param: str | None = None) -> dict[str, Any]:
    """The OpenAI protocol's error object."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def explain(error: ValidationError) -> tuple[str, str | None]:
    """The first thing wrong with a request, in words, and the field it is about.

    Never repeats the value: it may be a picture.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])[:80] or None
    return f"{field}: {first['msg']}" if field else first["msg"], field
