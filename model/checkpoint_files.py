"""The folder of a checkpoint of any kind: whole or not there, and checked when it is opened.

    policy.safetensors    weights
    blm.json              a contract: everything else that is needed to use them, with the hashes of both
    ...                   the files of an MLLM, if the policy has one

safetensors and JSON only: opening a checkpoint never runs code from it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blm.model.errors import UserError

FORMAT = 2
CONTRACT = "blm.json"
WEIGHTS = "policy.safetensors"
INDEX = "model.safetensors.index.json"


def write_folder(
    folder: Path, contract: Mapping[str, Any], weights: Mapping[str, Tensor], mllm_dir: Path | None = None
) -> None:
    """Write the folder, complete or not at all, in place of what stood there.

    contract: plain data with `kind`, which says what opens the checkpoint again; the format number and hashes are
    added. mllm_dir: files that are hard-linked into it where the file system can. An index names the MLLM's own
    weights, without which vLLM would take `policy.safetensors` for a part of them.
    """
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    if mllm_dir is not None:
        for file in sorted(mllm_dir.iterdir()):
            if file.is_file() and file.name not in (CONTRACT, WEIGHTS):
                _link_or_copy(file, temporary / file.name)
        if not (temporary / INDEX).exists():
            (temporary / INDEX).write_text(json.dumps(_weight_index(temporary), indent=1) + "\n")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary / WEIGHTS)
    data = {**contract, "format": FORMAT, "weights_hash": _file_hash(temporary / WEIGHTS)}
    data["contract_hash"] = _contract_hash(data)
    (temporary / CONTRACT).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)


def read_folder(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """The contract of a checkpoint (of this kind, if one is named), weights unread.

    UserError if the folder is no checkpoint, is damaged or of another format or kind, or was altered by hand.
    """
    path = folder / CONTRACT
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist; give the `model` folder of a finished stage2")
    if not path.is_file():
        raise UserError(
            f"{folder} holds no {CONTRACT}: it is not a BLM checkpoint; give the `model` folder of a stage2"
        )
    try:
        data = json.loads(path.read_text())
        if data["format"] != FORMAT:
            raise UserError(
                f"{path} has format {data['format']}; this version reads format {FORMAT}: train it again, or use the"
                " version that wrote it"
            )
        if data["contract_hash"] != _contract_hash(data):
            raise UserError(f"{path}: its contents do not match their hash; copy the checkpoint again")
        found = data["kind"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); copy the checkpoint again") from error
    if kind is not None and found != kind:
        raise UserError(f"{folder} holds a policy of kind {found!r}, not {kind!r}; give the folder of that one")
    return data


def load_weights(folder: Path, module: nn.Module) -> None:
    """Load the weights of a checkpoint folder into a module. UserError if they are missing, damaged, of another size,
    or another checkpoint's."""
    path = folder / WEIGHTS
    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} cannot be loaded ({str(error).splitlines()[0]}); copy it again") from error
    if _file_hash(path) != read_folder(folder)["weights_hash"]:
        raise UserError(f"{path} and {CONTRACT} beside it are not of one checkpoint; copy both again")


def _contract_hash(data: Mapping[str, Any]) -> str:
    """Of everything in a contract but this hash itself."""
    rest = {key: value for key, value in data.items() if key != "contract_hash"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def _weight_index(folder: Path) -> dict[str, Any]:
    """Hugging Face's index of the weights in a folder: which file holds which tensor."""
    files = sorted(folder.glob("*.safetensors"))
    weight_map: dict[str, str] = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            weight_map |= dict.fromkeys(tensors.keys(), file.name)
    return {"metadata": {"total_size": sum(file.stat().st_size for file in files)}, "weight_map": weight_map}


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
