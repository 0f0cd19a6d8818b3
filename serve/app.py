"""The served model as one Ray Serve application: conversation by vLLM, actions by the policy, one port.

application = build_app(Path("runs/tiny/stage2-1a2b3c4d/model"), ServeConfig(), device="cpu")
ray.serve.run(application, name="blm")
"""

import json
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.llm import LLMConfig, build_llm_deployment

from blm.serve.actions import make_actions
from blm.serve.config import SERVED_NAME, ChatConfig, ServeConfig
from blm.serve.ingress import make_ingress

MAX_LENGTH = 8192
"""Conversation length that is reserved unless the configuration asks for more."""
MAX_ONGOING = 512
"""Requests one ingress process holds at a time; waiting costs it nothing."""


def build_app(folder: Path, config: ServeConfig, device: str) -> Any:
    """The bound application of a checkpoint folder on `cpu` or `cuda`. Nothing is started here."""
    chat = chat_config(folder, config.chat, device)
    ingress = serve.deployment(
        make_ingress(), name="ingress", max_ongoing_requests=MAX_ONGOING, ray_actor_options={"num_cpus": 0.5}
    )
    return ingress.bind(
        config=config.actions,
        policy=make_actions(folder, config.actions, device) if config.actions.enabled else None,
        llm_deployments={SERVED_NAME: build_llm_deployment(chat, name_prefix="chat:")},
        model_cards={SERVED_NAME: _model_card(chat)},
    )


def _model_card(chat: LLMConfig) -> Any:
    from ray.llm._internal.serve.core.configs.openai_api_models import (
        to_model_metadata,
    )  # Ray's docs take it from there

    return to_model_metadata(SERVED_NAME, chat, {"input_modality": "image"})


def chat_config(folder: Path, config: ChatConfig, device: str) -> LLMConfig:
    """vLLM's settings for a model folder."""
    engine: dict[str, Any] = {
        "dtype": config.dtype,
        "max_model_len": config.max_length or min(declared_length(folder), MAX_LENGTH),
        "max_num_seqs": config.max_sequences,
        "limit_mm_per_prompt": {"image": config.max_images, "video": 0},
        "generation_config": "vllm",  # sampling defaults are the protocol's, not the folder's
    }
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_DO_NOT_TRACK": "1"}
    options: dict[str, Any] = {
        "max_ongoing_requests": 4 * config.max_sequences,
        "autoscaling_config": {
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.max_sequences,
        },
    }
    if device == "cpu":
        engine |= {"enforce_eager": True}
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": f"{max(round(config.kv_cache_gb), 1)}",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the default would pin every engine to the same core
        }
        placement: dict[str, Any] = {
            "accelerator_config": {"kind": "cpu"},
            "placement_group_config": {"bundles": [{"CPU": 1}]},
        }
        options["ray_actor_options"] = {"num_cpus": 0}
    else:
        engine |= {"gpu_memory_utilization": config.gpu_memory_share, "tensor_parallel_size": config.tensor_parallel}
        placement = {"placement_group_config": {"bundles": [{"CPU": 1, "GPU": 1}] * config.tensor_parallel}}
    return LLMConfig(
        model_loading_config={"model_id": SERVED_NAME, "model_source": str(folder)},
        engine_kwargs=engine,
        deployment_config=options,
        runtime_env={"env_vars": environment},
        log_engine_metrics=False,
        **placement,
    )


def declared_length(folder: Path) -> int:
    """The longest sequence that a Hugging Face folder's config.json declares, or our own limit if it does not say."""
    declared = json.loads((folder / "config.json").read_text())
    text = declared.get("text_config", declared)
    return int(text.get("max_position_embeddings", MAX_LENGTH))
