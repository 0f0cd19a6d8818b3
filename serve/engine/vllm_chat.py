"""vLLM in a replica: its engine, and its own web application over that engine, with all its routes.

The engine runs in processes of its own (vLLM's engine core and workers); this process holds its client. What of the
application is let through to the network is decided elsewhere (`serve/web/web.py`).
"""

import gc
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from blm.serve.config import SERVED_NAME, ServeConfig
from blm.serve.engine.options import engine_environment, engine_options
from blm.serve.engine.vllm_worker import REPLICA

WORKER = "blm.serve.engine.vllm_worker.PolicyWorker"
NOWHERE = "nowhere.invalid"
"""To vLLM an empty list of hosts, from which pictures may be fetched, is every host. The guard refuses them before."""


async def start_chat(folder: Path, config: ServeConfig, device: str) -> tuple[Any, ASGIApp]:
    """vLLM's AsyncLLM over a model folder, and its web application. Blocks the loop while the model is loaded, as
    vLLM's own server does: nobody can ask yet."""
    os.environ.update(engine_environment(device))
    os.environ[REPLICA] = str(os.getpid())
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = chat_arguments(folder, config, device)
    vllm_config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)
    engine = AsyncLLM.from_vllm_config(vllm_config, usage_context=UsageContext.OPENAI_API_SERVER)
    try:
        await engine.reset_mm_cache()  # of the pictures that vLLM tried itself with
        tasks = await engine.get_supported_tasks()
        application = build_app(arguments, tasks, engine.model_config)
        await init_app_state(engine, application.state, arguments, tasks)
        gc.freeze()  # as vLLM's own server does: what is there now stays, and need not be looked through again
    except BaseException:
        engine.shutdown()
        raise
    return engine, application


def chat_arguments(folder: Path, config: ServeConfig, device: str) -> Namespace:
    """What `vllm serve` would have been told on its command line."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    options: dict[str, Any] = engine_options(folder, config.chat, device) | {
        "model": str(folder),
        "served_model_name": [SERVED_NAME],
        "worker_extension_cls": WORKER,
        "allowed_media_domains": list(config.guard.media.url_hosts) or [NOWHERE],
    }
    if knows_tools(folder):
        options |= {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    for name, value in options.items():
        if not hasattr(arguments, name):
            raise RuntimeError(f"this vLLM knows no option {name}")
        setattr(arguments, name, value)
    return arguments


def knows_tools(folder: Path) -> bool:
    """Whether the folder's chat template writes tools as Qwen's does."""
    files = (folder / "chat_template.jinja", folder / "chat_template.json", folder / "tokenizer_config.json")
    return any(file.is_file() and "<tool_call>" in file.read_text() for file in files)
