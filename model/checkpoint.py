"""The deployable checkpoint of our policy: one folder that talks and acts.

config.json, model.safetensors, tokenizer.json, ...   the MLLM; vLLM and transformers load the folder as it is
policy.safetensors                                     the policy's weights
blm.json                                               everything else a user of the policy must know
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from blm.model.checkpoint_files import CONTRACT, load_weights, read_folder, write_folder
from blm.model.errors import UserError
from blm.model.layout import Layout, find_layout, layout_from_json, layout_to_json
from blm.model.normalize import EmbodimentStatistics, statistics_from_json, statistics_hash, statistics_to_json
from blm.model.options import PolicyConfig
from blm.model.policy import Policy

KIND = "blm"
"""`kind` in the `blm.json` of such a checkpoint."""
_PLAIN = (
    "layer",
    "max_text_tokens",
    "intent_width",
    "max_tokens",
    "image_px",
    "intents_fingerprint",
    "intents_precision",
    "provenance",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """What `blm.json` holds: how observations must look, and how the policy is built."""

    policy: PolicyConfig
    """Size of the policy."""
    layouts: tuple[Layout, ...]
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
    intents_precision: Literal["float32", "bfloat16"] = "float32"
    """Of the extractor's matrix products."""
    provenance: Mapping[str, Any]
    """Where it comes from."""

    def __post_init__(self) -> None:
        for layout in self.layouts:
            check_statistics(layout, self.statistics, self.policy.chunk)

    @property
    def embodiments(self) -> tuple[str, ...]:
        """Names of the robots it was trained for."""
        return tuple(layout.name for layout in self.layouts)

    def layout(self, embodiment: str) -> Layout:
        """A robot's layout. UserError for a robot it was not trained for."""
        return find_layout(self.layouts, embodiment)

    def build_policy(self) -> Policy:
        """A policy of this size, weights not yet loaded."""
        return Policy(self.policy, layouts=self.layouts, intent_width=self.intent_width, max_tokens=self.max_tokens)


def check_statistics(layout: Layout, statistics: Mapping[str, EmbodimentStatistics], chunk: int) -> None:
    """UserError unless there are statistics for the robot, of as many numbers as it has and for chunks of `chunk`
    actions."""
    if layout.name not in statistics:
        raise UserError(f"{layout.name} has no statistics; collect demonstrations for it, or leave it out")
    mine = statistics[layout.name]
    for what, quantiles, names in (
        ("state", mine.state, layout.state_names),
        ("action", mine.action, layout.action_names),
    ):
        if quantiles.dims != len(names):
            raise UserError(
                f"{layout.name}: statistics of {quantiles.dims} {what} values, but the robot has {len(names)}:"
                f" {', '.join(names)}"
            )
    steps = mine.action.steps
    if steps not in (None, chunk):
        raise UserError(f"{layout.name}: statistics of chunks of {steps} actions, but the policy's have {chunk}")


def write_checkpoint(folder: Path, mllm_dir: Path, contract: Contract, weights: Mapping[str, Tensor]) -> None:
    """Write the folder, complete or not at all. The MLLM's files are hard-linked where the file system can."""
    data = {name: getattr(contract, name) for name in _PLAIN} | {
        "kind": KIND,
        "policy": asdict(contract.policy),
        "cameras": list(contract.cameras),
        "embodiments": list(contract.embodiments),
        "layouts": [layout_to_json(layout) for layout in contract.layouts],
        "statistics": statistics_to_json(contract.statistics),
        "statistics_hash": statistics_hash(contract.statistics),
    }
    write_folder(folder, data, weights, mllm_dir)


def read_contract(folder: Path) -> Contract:
    """The contract of a checkpoint of our policy. UserError if the folder is none, is damaged, or was altered by
    hand."""
    data = read_folder(folder, KIND)
    try:
        return Contract(
            policy=PolicyConfig(**data["policy"]),
            layouts=tuple(layout_from_json(layout) for layout in data["layouts"]),
            cameras=tuple(data["cameras"]),
            statistics=statistics_from_json(data["statistics"]),
            **{name: data[name] for name in _PLAIN},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONTRACT} is damaged ({error}); copy the checkpoint again") from error


def load_policy(folder: Path, contract: Contract) -> Policy:
    """The policy with its weights, in eval mode. UserError if they are missing, damaged, or another checkpoint's."""
    policy = contract.build_policy()
    load_weights(folder, policy)
    return policy.eval()
