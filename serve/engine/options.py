"""How vLLM is started, as plain data: for the served model, and for whoever wants to compare it with a bare vLLM.

Neither vLLM nor Ray is imported here.
"""

import json
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.serve.config import ActionsConfig, ChatConfig

MAX_LENGTH = 8192
"""Conversation length that is reserved unless the configuration asks for more."""
MEDIA_CACHE_GB = 0.25
"""Pictures of conversations that are kept in case the next turn has them again; vLLM's own bound is 4."""


def engine_options(folder: Path, chat: ChatConfig, device: str) -> dict[str, Any]:
    """Keyword arguments of vLLM's AsyncEngineArgs for a model folder on `cpu` or `cuda`.

    UserError if the folder's config.json cannot be read.
    """
    declared = _declared(folder)
    text = declared.get("text_config", declared)
    longest = int(text.get("max_position_embeddings", MAX_LENGTH))
    options: dict[str, Any] = {
        "dtype": chat_dtype(folder, chat, device),
        "max_model_len": chat.max_length or min(longest, MAX_LENGTH),
        "max_num_seqs": chat.max_sequences,
        "limit_mm_per_prompt": {"image": chat.max_images, "video": chat.max_videos},
        "mm_processor_cache_gb": MEDIA_CACHE_GB,
        "generation_config": "vllm",  # sampling defaults are the protocol's, not the folder's
    }
    if device == "cpu":
        return options | {
            "enforce_eager": True,
            "kv_cache_memory_bytes": round(chat.kv_cache_gb * 2**30),
            "distributed_executor_backend": "uni",  # the worker in the engine's process, as on one GPU
        }
    return options | {
        "gpu_memory_utilization": chat.gpu_memory_share,
        "tensor_parallel_size": chat.tensor_parallel,
    }


def engine_environment(device: str) -> dict[str, str]:
    """Variables of the process that starts vLLM."""
    environment = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",  # a host that may be asked for pictures could send on to any other
    }
    if device == "cpu":
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # the default would pin every engine to the same core
        # On CPUs vLLM gives the worker a process of its own, to set its OpenMP threads there, unless it is told so.
        # Ours are set before: without that process an answer crosses one border less, and 300 MB are saved.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return environment


def chat_dtype(folder: Path, chat: ChatConfig, device: str) -> str:
    """The number format that vLLM computes in. `auto`: that of the weights on a CPU, bfloat16 on a GPU; vLLM's own
    `auto` would take bfloat16 for float32 weights, which a policy that looks through them was not trained on."""
    if chat.dtype != "auto":
        return chat.dtype
    declared = _declared(folder)
    stored = declared.get("dtype") or declared.get("torch_dtype") or "bfloat16"
    return str(stored) if device == "cpu" else "bfloat16"


def actions_dtype(actions: ActionsConfig, device: str) -> str:
    """The number format of a multimodal model that the policy has for itself."""
    if actions.dtype != "auto":
        return actions.dtype
    return "float32" if device == "cpu" else "bfloat16"


def _declared(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} cannot be read ({error}); give a model folder") from error
