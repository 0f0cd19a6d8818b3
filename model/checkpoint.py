"""The deployable checkpoint: one folder that talks and acts.

    config.json, model.safetensors, tokenizer.json, ...   the MLLM; vLLM and transformers load the folder as it is
    policy.safetensors                                     the policy's weights
    blm.json                                               everything else a user of the policy must know

safetensors and JSON only: opening a checkpoint never runs code from it. An index names the MLLM's own weights, without
which vLLM would take `policy.safetensors` for a part of them.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from blm.model.embodiments import CONTROL_HZ, get_embodiment
from blm.model.errors import UserError
from blm.model.normalize import EmbodimentStatistics, statistics_from_json, statistics_hash, statistics_to_json
from blm.model.options import PolicyConfig
from blm.model.policy import Policy

FORMAT = 1
CONTRACT = "blm.json"
WEIGHTS = "policy.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """What `blm.json` holds: how observations must look, and how the policy is built."""

    policy: PolicyConfig
    """Size of the policy."""
    embodiments: tuple[str, ...]
    """Robots it was trained for."""
    layer: int
    """k: intents are the hidden states of this block of the MLLM."""
    max_text_tokens: int
    """Room for the instruction behind the pictures, in tokens."""
    intent_width: int
    """Width of an intent token."""
    max_tokens: int
    """L: intent tokens an observation."""
    cameras: tuple[str, ...]
    """Pictures an observation needs, in this order."""
    image_px: int
    """Side of the square pictures."""
    statistics: Mapping[str, EmbodimentStatistics]
    """Normalisation of each robot."""
    intents_fingerprint: str
    """Of the extractor whose intents it was trained on."""
    provenance: Mapping[str, Any]
    """Where it comes from."""

    def build_policy(self) -> Policy:
        """A policy of this size, weights not yet loaded."""
        return Policy(
            self.policy, embodiments=self.embodiments, intent_width=self.intent_width, max_tokens=self.max_tokens
        )


def write_checkpoint(folder: Path, mllm_dir: Path, contract: Contract, weights: Mapping[str, Tensor]) -> None:
    """Write the folder, complete or not at all. The MLLM's files are hard-linked where the file system can."""
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for file in sorted(mllm_dir.iterdir()):
        if file.is_file():
            _link_or_copy(file, temporary / file.name)
    if not (temporary / INDEX).exists():
        (temporary / INDEX).write_text(json.dumps(_weight_index(temporary), indent=1) + "\n")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary / WEIGHTS)
    data = asdict(contract) | {
        "format": FORMAT,
        "control_hz": CONTROL_HZ,
        "weights_hash": _file_hash(temporary / WEIGHTS),
        "statistics": statistics_to_json(contract.statistics),
        "statistics_hash": statistics_hash(contract.statistics),
        "layouts": {
            name: {"state": get_embodiment(name).state_names, "action": get_embodiment(name).action_names}
            for name in contract.embodiments
        },
    }
    (temporary / CONTRACT).write_text(json.dumps(data, indent=1) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)


def read_contract(folder: Path) -> Contract:
    """The contract of a checkpoint. UserError if the folder is none, is damaged, or was altered by hand."""
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
            raise UserError(f"{path} has format {data['format']}; this version reads format {FORMAT}")
        statistics = statistics_from_json(data["statistics"])
        if statistics_hash(statistics) != data["statistics_hash"]:
            raise UserError(f"{path}: the normalisation statistics do not match their hash; copy the checkpoint again")
        return Contract(
            policy=PolicyConfig(**data["policy"]),
            embodiments=tuple(data["embodiments"]),
            cameras=tuple(data["cameras"]),
            statistics=statistics,
            **{
                name: data[name]
                for name in (
                    "layer",
                    "max_text_tokens",
                    "intent_width",
                    "max_tokens",
                    "image_px",
                    "intents_fingerprint",
                    "provenance",
                )
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); copy the checkpoint again") from error


def load_policy(folder: Path, contract: Contract) -> Policy:
    """The policy with its weights, in eval mode. UserError if they are missing, damaged, or another checkpoint's."""
    policy = contract.build_policy()
    path = folder / WEIGHTS
    try:
        policy.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} cannot be loaded ({str(error).splitlines()[0]}); copy it again") from error
    if _file_hash(path) != json.loads((folder / CONTRACT).read_text()).get("weights_hash"):
        raise UserError(f"{path} and {CONTRACT} beside it are not of one checkpoint; copy both again")
    return policy.eval()


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
