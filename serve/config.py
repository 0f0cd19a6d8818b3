"""Options of the server, as data: what `blm serve --config FILE` may set."""

from dataclasses import dataclass, field
from typing import Literal

from blm.model.errors import UserError
from blm.serve.batches.service import BatchConfig
from blm.serve.guard.config import GuardConfig
from blm.serve.observability.logs import LogConfig
from blm.serve.playground.config import PlaygroundConfig
from blm.serve.sessions.session import SessionConfig

APPLICATION, MODEL, CONTROL = "blm", "model", "control"
"""Ray Serve's application, and its deployments: whole models, and policies alone."""
SERVED_NAME = "BLM"
"""The model's name in requests and in `/v1/models`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatConfig:
    """The part that talks: vLLM behind the OpenAI protocol."""

    enabled: bool = True
    """Off: actions only, without vLLM."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights while they run; auto: bfloat16 on a GPU, as they are stored on a CPU."""
    max_length: int = 0
    """Longest conversation in tokens, pictures included; 0: what the model declares, at most 8192."""
    max_images: int = 8
    """Most pictures in one conversation."""
    max_videos: int = 1
    """Most videos in one conversation."""
    max_sequences: int = 16
    """Conversations that are generated side by side in one replica."""
    kv_cache_gb: float = 1.0
    """Memory for keys and values on CPU; on a GPU `gpu_memory_share` counts."""
    gpu_memory_share: float = 0.6
    """Part of a GPU's memory that vLLM takes; the rest is the policy's."""
    tensor_parallel: int = 1
    """GPUs one replica is spread over."""

    def __post_init__(self) -> None:
        _at_least(1, max_images=self.max_images, max_sequences=self.max_sequences, tensor_parallel=self.tensor_parallel)
        _at_least(0, max_videos=self.max_videos)
        if self.max_length < 0 or self.kv_cache_gb <= 0 or not 0 < self.gpu_memory_share < 1:
            raise UserError("max_length must be 0 or more, kv_cache_gb above 0, gpu_memory_share between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionsConfig:
    """The part that acts: the policy behind `/v1/actions` and the WebSockets."""

    enabled: bool = True
    """Off: conversation only, from any Qwen2.5-VL folder."""
    apart: bool = False
    """Whether the policy stands in the `control` replicas alone, each with a multimodal model of its own."""
    sharing: Literal["auto", "one", "copies"] = "auto"
    """Whether conversation and actions look through one loaded multimodal model; auto: one where it can be, said in
    the log and in /health."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Number format of the multimodal model's lower blocks in `control` replicas, on a GPU of the policy's matrix
    products too; auto: bfloat16 on a GPU, float32 on a CPU. Where conversation and actions share one model, it is
    `chat.dtype`."""
    cuda_graphs: bool = True
    """Whether a GPU denoises by CUDA graphs, one for each robot and number of rows that is a power of two up to 32."""
    timeout_s: float = 30.0
    """An answer that takes longer is given up with status 503."""

    def __post_init__(self) -> None:
        if self.timeout_s <= 0:
            raise UserError("timeout_s must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicasConfig:
    """How many replicas there are of one kind, and when there are more."""

    min: int = 1
    """Replicas that are always there; 0: none while there is nothing to do, and the first request waits for one."""
    max: int = 1
    """Replicas under load."""
    ongoing: float = 16.0
    """Requests and open WebSockets that one replica is meant to have; more replicas come when there are more."""
    latency_ms: float = 0.0
    """Action latency (95th percentile of the last seconds) above which one more replica comes; 0: not looked at."""
    more_after_s: float = 10.0
    """How long there must be too much to do before more replicas come."""
    fewer_after_s: float = 120.0
    """How long there must be too little to do before replicas go."""
    num_cpus: float = 1.0
    """Cores that one replica asks the cluster for."""
    num_gpus: float = 0.0
    """GPUs that one replica asks the cluster for; on a GPU server `chat.tensor_parallel` of them for the model, if
    nothing is said here."""

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.max or self.max < 1:
            raise UserError(f"min={self.min} and max={self.max}; 0 <= min <= max, and max is 1 or more")
        if self.ongoing <= 0 or min(self.latency_ms, self.more_after_s, self.fewer_after_s) < 0:
            raise UserError("ongoing must be above 0; latency_ms, more_after_s and fewer_after_s 0 or more")
        if self.num_cpus < 0 or self.num_gpus < 0:
            raise UserError("num_cpus and num_gpus must be 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """The whole server."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the server to the network, which needs `guard` to have keys."""
    port: int = 8000
    """The one port of everything."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where PyTorch sees one."""
    front: Literal["auto", "haproxy", "ray"] = "auto"
    """Who listens and passes on to the replicas: HAProxy, which adds next to nothing, or Ray Serve's own proxy."""
    chat: ChatConfig = field(default_factory=ChatConfig)
    """The part that talks."""
    actions: ActionsConfig = field(default_factory=ActionsConfig)
    """The part that acts."""
    session: SessionConfig = field(default_factory=SessionConfig)
    """How clients of the action protocols are understood."""
    batches: BatchConfig = field(default_factory=BatchConfig)
    """Which observations are computed together."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Keys and limits."""
    logs: LogConfig = field(default_factory=LogConfig)
    """What the replicas write down."""
    metrics: bool = True
    """Whether /metrics is there for Prometheus."""
    playground: PlaygroundConfig = field(default_factory=PlaygroundConfig)
    """The page /playground."""
    model: ReplicasConfig = field(default_factory=ReplicasConfig)
    """Replicas of the whole model: conversation and actions."""
    control: ReplicasConfig = field(default_factory=ReplicasConfig)
    """Replicas of the policy alone, for actions that the others cannot answer soon enough. Used if `overflow` is on,
    or if `actions.apart` is."""
    overflow: bool = False
    """Whether the model's replicas hand observations that would wait too long to `control` replicas."""
    drain_s: float = 60.0
    """How long a replica that has to go lets open episodes and conversations go on."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UserError(f"port is {self.port}; give one from 1 to 65535")
        if not (self.chat.enabled or self.actions.enabled):
            raise UserError("chat and actions are both off; there is nothing left to serve")
        if self.actions.apart and not (self.chat.enabled and self.actions.enabled):
            raise UserError("actions.apart parts actions from conversation; it needs both")
        if not 0 <= self.drain_s <= 3600:
            raise UserError(f"drain_s is {self.drain_s}; give 0 to 3600 seconds")

    @property
    def has_control(self) -> bool:
        """Whether there is a deployment of `control` replicas."""
        return self.actions.enabled and self.chat.enabled and (self.overflow or self.actions.apart)


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise UserError(f"{name} is {value}; give {least} or more")
