"""Where a model to be served lies, and a look at its folder before minutes are spent on starting a server from it."""

import json
from pathlib import Path

from blm.cluster import depot
from blm.model.checkpoint import read_contract
from blm.model.checkpoint_files import CONTRACT, WEIGHTS, read_folder
from blm.model.errors import UserError

_MUST_HAVE = ("config.json", "tokenizer_config.json", "tokenizer.json")
_DEPTH = 3
"""RUN/STAGE/model: so far above a model is the store of its run, whose manifests say what its files must be."""


def full_name(model: str) -> str:
    """A model as replicas on all nodes are told of it: the whole path of a folder, or its address in a store."""
    return model.rstrip("/") if "://" in model else str(Path(model).expanduser().resolve())


def fetched(model: str) -> Path:
    """The folder of a model on this node, brought from the store if `model` is an address such as
    `s3://bucket/prefix/tiny/stage2-1a2b3c4d/model`. UserError if the store cannot be used.

    The process works with that store afterwards.
    """
    scheme, found, place = model.rstrip("/").partition("://")
    if not found:
        return Path(model)
    parts = place.split("/")
    depth = min(_DEPTH, len(parts) - 1)
    if depth < 1:
        raise UserError(f"{model} names no folder; give the address of the `model` folder of a finished stage2")
    return depot.here(depot.enter(f"{scheme}://{'/'.join(parts[:-depth])}").joinpath(*parts[-depth:]))


def check_folder(folder: Path, *, with_policy: bool, with_chat: bool = True) -> None:
    """UserError unless the folder holds what is to be served: a multimodal model, a policy (on top of it, or one that
    needs none), or both."""
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist; give the `model` folder of a finished stage2")
    if with_chat:
        _check_model(folder)
    if with_policy:
        _check_policy(folder, with_chat=with_chat)


def _check_model(folder: Path) -> None:
    for name in _MUST_HAVE:
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no model folder ({name} is missing); give the `model` folder of a stage2")
    try:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} is damaged; copy the model again") from error
    if kind != "qwen2_5_vl":
        raise UserError(f"{folder} is a {kind} model; this version serves qwen2_5_vl")
    if not any(file.name != WEIGHTS for file in folder.glob("*.safetensors")):
        raise UserError(f"{folder} holds no weights (model.safetensors is missing); copy the model again")


def _check_policy(folder: Path, *, with_chat: bool) -> None:
    try:
        if with_chat:
            read_contract(folder)
        else:
            read_folder(folder)
    except UserError as error:
        if (folder / CONTRACT).is_file() or not with_chat:
            raise
        raise UserError(f"{error}; or serve conversation alone with --chat-only") from error
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder} lacks {WEIGHTS}; copy the checkpoint again, or serve conversation alone with --chat-only"
        )
