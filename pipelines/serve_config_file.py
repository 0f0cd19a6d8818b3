"""A server's configuration as plain data: what a file of `serve deploy` says, and what a running server leaves behind.

blm serve --model /models/blm --config serve.yaml --write-config blm.yaml
serve deploy blm.yaml                                                     (or the same text in a KubeRay RayService)

The file names `application` below, which Ray Serve calls in the cluster with what stands under `args`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from blm.model.errors import UserError
from blm.pipelines.schema import build
from blm.serve.config import APPLICATION, ServeConfig

IMPORT_PATH = f"{__name__}:application"
HEADER = """\
# {name} on a Ray cluster: `serve deploy {file}`, or as serveConfigV2 of a KubeRay RayService (cluster/kubernetes/).
# Every node needs blm itself, and the model folder at this path.
# To roll out another model change `model` and deploy again: no request fails while it takes over.
"""


def application(arguments: Mapping[str, Any]) -> Any:
    """The bound application; called by Ray Serve.

    arguments: `model`, the folder of a checkpoint or its address in a store; `config`, options of `blm.serve.config`,
    `device` among them. UserError for what is none.
    """
    from blm.pipelines.serve_start import bound
    from blm.serve.checkpoint import check_folder, fetched
    from blm.serve.guard.keys import resolve

    where = "the application's args"
    if unknown := set(arguments) - {"model", "config"}:
        raise UserError(f"{where}: unknown {min(unknown)!r}; known: model, config")
    if not isinstance(arguments.get("model"), str):
        raise UserError(f"{where}: give model, the folder of a checkpoint")
    config: ServeConfig = build(ServeConfig, arguments.get("config") or {}, where=where)
    if config.device == "auto":
        raise UserError(f"{where}: give config.device, cpu or cuda: the machine that reads this need not have the GPUs")
    model = arguments["model"]
    check_folder(fetched(model), with_policy=config.actions.enabled, with_chat=config.chat.enabled)
    return bound(model, replace(config, guard=resolve(config.guard, host=config.host)), config.device)


def config_file(folder: Path | str, config: ServeConfig, device: str, *, name: str) -> str:
    """The YAML text for `serve deploy`. name: the file's, for its own comment."""
    body = {
        "proxy_location": "EveryNode",
        "http_options": {"host": config.host, "port": config.port},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": {"model": str(folder), "config": plain(replace(config, device=device))},  # type: ignore[arg-type]
            }
        ],
    }
    return HEADER.format(name=APPLICATION, file=name) + yaml.safe_dump(body, sort_keys=False, width=120)


def plain(config: Any) -> dict[str, Any]:
    """What in a configuration differs from its defaults, as values that YAML and JSON have; `build` reads it back."""
    found: dict[str, Any] = {}
    default = type(config)()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(default, field.name):
            found[field.name] = plain(value) if dataclasses.is_dataclass(value) else _plain_value(value)
    return found


def _plain_value(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain_value(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain_value(one) for one in value]
    return value
