"""A look at a model folder before minutes are spent on starting a server from it."""

import json
from pathlib import Path

from blm.model.checkpoint import read_contract
from blm.model.checkpoint_files import CONTRACT, WEIGHTS
from blm.model.errors import UserError

_MUST_HAVE = ("config.json", "tokenizer_config.json", "tokenizer.json")


def check_folder(folder: Path, *, with_policy: bool) -> None:
    """UserError unless the folder holds a multimodal model and, if asked for, the policy on top of it."""
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist; give the `model` folder of a finished stage2")
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
    if with_policy:
        _check_policy(folder)


def _check_policy(folder: Path) -> None:
    try:
        read_contract(folder)
    except UserError as error:
        if (folder / CONTRACT).is_file():
            raise
        raise UserError(f"{error}; or serve conversation alone with --chat-only") from error
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder} lacks {WEIGHTS}; copy the checkpoint again, or serve conversation alone with --chat-only"
        )
