"""What is specific to a family of multimodal models, in one place.

A family is what transformers calls a model type. Of one that is not in the table the modules are looked for under the
names that transformers' models use (the tests do so with LLaVA).
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

import blm.model.lean  # noqa: F401  # isort: skip
from transformers import AutoModelForImageTextToText, PretrainedConfig

from blm.model.errors import UserError
from blm.model.vision import MERGE, PATCH_PX, TEMPORAL_PATCH

Positions = Literal["sequence", "qwen2_5_vl", "qwen3_vl", "model"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Where a family's parts are, and how it wants its pictures and positions."""

    vision: str
    """Path of the vision tower inside the model."""
    mergers: tuple[str, ...]
    """Paths of what turns the tower's output into language tokens."""
    language: str
    """Path of the language model."""
    positions: Positions = "sequence"
    """`sequence`: 0, 1, 2, ...; Qwen's multimodal ones; or `model`: whatever the model's own `get_rope_index` says."""
    fast_vision: bool = False
    """Pictures go through `blm.model.vision` in batches of one size; otherwise through the model's own forward."""
    one_stream: bool = False
    """Frames of videos travel among the pictures, so that one conversation cannot have both."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The parts of a model."""

    vision: nn.Module
    mergers: tuple[nn.Module, ...]
    language: nn.Module

    @property
    def vision_blocks(self) -> list[nn.Module]:
        """The tower's transformer blocks."""
        return _blocks(self.vision)

    @property
    def language_blocks(self) -> list[nn.Module]:
        """The language model's transformer blocks."""
        return _blocks(self.language)


_QWEN3 = Family(
    vision="model.visual",
    mergers=("model.visual.merger", "model.visual.deepstack_merger_list"),
    language="model.language_model",
    positions="qwen3_vl",
)
FAMILIES = {
    "qwen2_5_vl": Family(
        vision="model.visual",
        mergers=("model.visual.merger",),
        language="model.language_model",
        positions="qwen2_5_vl",
        fast_vision=True,
    ),
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "internvl": Family(
        vision="model.vision_tower",
        mergers=("model.multi_modal_projector",),
        language="model.language_model",
        one_stream=True,
    ),
}
_NOT_CAUSAL = ("paligemma", "gemma3", "gemma3n")  # pictures look ahead: packing and cached intents would be wrong
_VISION = ("model.visual", "model.vision_tower", "model.vision_model")
_MERGER = ("model.visual.merger", "model.multi_modal_projector", "model.connector")
_LANGUAGE = ("model.language_model", "model.text_model")


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model's configuration. UserError for one whose parts are not where such models have them."""
    if config.model_type in _NOT_CAUSAL:
        raise UserError(f"{config.model_type} models attend to pictures in both directions; take another backbone")
    family = FAMILIES.get(config.model_type) or _found(config.model_type, config)
    vision = config.vision_config
    if family.fast_vision and (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size) != (
        PATCH_PX,
        MERGE,
        TEMPORAL_PATCH,
    ):
        return replace(family, fast_vision=False)
    return family


def parts_of(model: nn.Module) -> Parts:
    """Vision tower, mergers and language model of `model`."""
    family = family_of(model.config)
    return Parts(
        vision=model.get_submodule(family.vision),
        mergers=tuple(model.get_submodule(path) for path in family.mergers),
        language=model.get_submodule(family.language),
    )


def empty_model(config: PretrainedConfig) -> Any:
    """The model on the meta device: its modules and methods without any weights."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


_unknown: dict[str, Family] = {}


def _found(model_type: str, config: PretrainedConfig) -> Family:
    """The record of a family that is not in the table, from the modules its model has."""
    if model_type in _unknown:
        return _unknown[model_type]
    try:
        model = empty_model(config)
    except ValueError as error:
        raise UserError(f"a {model_type} model is no image-text-to-text model of transformers") from error
    modules = dict(model.named_modules())

    def first(paths: tuple[str, ...], what: str) -> str:
        for path in paths:
            if path in modules:
                return path
        raise UserError(f"{model_type}: its {what} was not found ({', '.join(paths)}); add it to model/families.py")

    _unknown[model_type] = Family(
        vision=first(_VISION, "vision tower"),
        mergers=(first(_MERGER, "merger"),),
        language=first(_LANGUAGE, "language model"),
        positions="model" if hasattr(model.model, "get_rope_index") else "sequence",
    )
    return _unknown[model_type]


def _blocks(tower: nn.Module) -> list[nn.Module]:
    """A transformer's blocks: the longest of the lists of modules that stand nearest to its root."""
    lists = [(-name.count("."), list(m)) for name, m in tower.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise UserError(f"{type(tower).__name__}: its blocks were not found; add the family to model/families.py")
    return max(lists, key=lambda found: (found[0], len(found[1])))[1]
