"""Options of the server, as data: what `blm serve --config FILE` may set."""

from dataclasses import dataclass, field
from typing import Literal

from blm.model.errors import UserError

SERVED_NAME = "BLM"
"""The model's name in requests and in `/v1/models`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatConfig:
    """The part that talks: vLLM behind the OpenAI protocol."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    """Number format of the weights while they run."""
    max_length: int = 0
    """Longest conversation in tokens, pictures included; 0: what the model declares, at most 8192."""
    max_images: int = 8
    """Most pictures in one conversation."""
    max_sequences: int = 16
    """Conversations that are generated side by side in one replica."""
    min_replicas: int = 1
    """Replicas that are always there."""
    max_replicas: int = 1
    """Replicas under load."""
    kv_cache_gb: float = 1.0
    """Memory for keys and values on CPU; on a GPU `gpu_memory_share` counts."""
    gpu_memory_share: float = 0.6
    """Part of a GPU's memory that vLLM takes; the rest is the policy's."""
    tensor_parallel: int = 1
    """GPUs one replica is spread over."""

    def __post_init__(self) -> None:
        _at_least(1, max_images=self.max_images, max_sequences=self.max_sequences, tensor_parallel=self.tensor_parallel)
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise UserError(f"min_replicas={self.min_replicas} and max_replicas={self.max_replicas}; 1 <= min <= max")
        if self.max_length < 0 or self.kv_cache_gb <= 0 or not 0 < self.gpu_memory_share < 1:
            raise UserError("max_length must be 0 or more, kv_cache_gb above 0, gpu_memory_share between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionsConfig:
    """The part that acts: the policy behind `/v1/actions`."""

    enabled: bool = True
    """Off: conversation only, from any Qwen2.5-VL folder."""
    dtype: Literal["bfloat16", "float32"] = "float32"
    """Number format of the multimodal model's lower blocks; the policy itself runs in float32."""
    max_batch: int = 8
    """Observations that are answered by one forward pass."""
    batch_wait_ms: float = 5.0
    """How long the first of them waits for company."""
    max_queued: int = 64
    """Requests that may wait; more are refused with status 503."""
    timeout_s: float = 30.0
    """An answer that takes longer is given up with status 503."""
    min_replicas: int = 1
    """Replicas that are always there."""
    max_replicas: int = 1
    """Replicas under load."""

    def __post_init__(self) -> None:
        _at_least(1, max_batch=self.max_batch, max_queued=self.max_queued)
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise UserError(f"min_replicas={self.min_replicas} and max_replicas={self.max_replicas}; 1 <= min <= max")
        if self.batch_wait_ms < 0 or self.timeout_s <= 0:
            raise UserError("batch_wait_ms must be 0 or more, timeout_s above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """The whole server."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the server to the network, without any password."""
    port: int = 8000
    """The one port of everything."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where PyTorch sees one."""
    chat: ChatConfig = field(default_factory=ChatConfig)
    """The part that talks."""
    actions: ActionsConfig = field(default_factory=ActionsConfig)
    """The part that acts."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UserError(f"port is {self.port}; give one from 1 to 65535")


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise UserError(f"{name} is {value}; give {least} or more")
