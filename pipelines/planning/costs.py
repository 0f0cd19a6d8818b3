"""What one unit of work costs, and what nodes give: the numbers a plan is made of, read from a file.

The file that ships (`costs.yaml`) was measured on named hardware; what could not be measured is a group of its own,
with the assumptions it follows from. A run measures the rest anew (`blm.pipelines.planning.measure`).
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.schema import build, nearest, parse_yaml

DEFAULT = Path(__file__).with_name("costs.yaml")


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuCosts:
    """Seconds of one core a unit; `costs.yaml` says what each unit is."""

    control_step_s: float
    picture_s: float
    """Of 112 px; others in proportion to their pixels."""
    picture_assembly_s: float
    """Of the driver alone, at 112 px."""
    scene_s: float
    scene_choice_s: float
    """Of the driver alone."""
    record_encoding_s: float
    held_out_s: float
    vision_sample_s: float
    token_s: float
    intent_frame_s: float
    intent_check_s: float
    """Of the driver alone."""
    policy_sample_s: float
    window_frame_s: float
    """Of the driver alone."""
    rollout_step_s: float
    rollout_look_s: float
    answer_s: float
    request_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StartCosts:
    """Seconds until the first unit of a stage is worked on."""

    ray_s: float
    simulators_s: float
    renderers_s: float
    scenes_s: float
    models_s: float
    trainers_s: float
    policy_trainers_s: float
    tokenizer_s: float
    rollouts_s: float
    answers_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Bytes, tokens and pictures a unit."""

    demonstration_bytes: float
    picture_bytes_px: float
    official_bytes_px: float
    scene_bytes: float
    text_tokens_record: float
    episode_clip_pictures: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverCosts:
    """What the driver does alone, one thing after another."""

    piece_s: float
    file_s: float
    hash_gb_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """What a configuration does not say about the work it asks for."""

    steps_by_cell: dict[str, float]
    """Control steps of a demonstration."""
    other_cell_steps: float
    rollout_steps_ratio: float
    random_rollout_steps: float
    scenes_kept: float

    def steps(self, cell: str) -> float:
        """Control steps of a demonstration of a cell."""
        return self.steps_by_cell.get(cell, self.other_cell_steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Backbone:
    """Sizes of a published multimodal model."""

    language: float
    """Parameters of the language model's blocks."""
    vision: float
    """Parameters of the vision tower."""
    layers: int
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuCosts:
    """Assumptions about GPUs, none of them measured."""

    training_utilisation: float
    inference_utilisation: float
    policy_utilisation: float
    training_step_floor_s: float
    model_load_s: float
    collective_gb_s: float
    backbones: dict[str, Backbone]

    def backbone(self, name: str) -> Backbone:
        """Sizes by the published name. UserError naming those that are known."""
        if name not in self.backbones:
            raise UserError(
                f"the costs know no sizes of the backbone {name!r}; {nearest(name, self.backbones)}: add it to "
                "gpu.backbones in a copy of costs.yaml and give that with --costs"
            )
        return self.backbones[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeCosts:
    """What a node of one kind gives and costs."""

    cores: int
    gpus: int
    peak_tflops: float
    """Of one GPU, dense bfloat16 products."""
    network_gb_s: float
    """Between it and the storage."""
    usd_h: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageCosts:
    """The place that all nodes read from and write to."""

    gb_s: float
    usd_gb_month: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Everything a plan is made of, beside a configuration."""

    measured_on: str
    cpu: CpuCosts
    starts: StartCosts
    sizes: Sizes
    driver: DriverCosts
    workload: Shares
    gpu: GpuCosts
    nodes: dict[str, NodeCosts]
    storage: StorageCosts


@cache
def read_costs(path: Path = DEFAULT) -> Costs:
    """The costs of a file. UserError naming the file and the entry that is missing or wrong."""
    try:
        values: Any = parse_yaml(path.read_text(), where=str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a file like {DEFAULT}") from error
    try:
        costs: Costs = build(Costs, values, where=str(path))
    except TypeError as error:  # a group without one of its entries
        raise UserError(f"{path}: {str(error).partition('() ')[2]}; {DEFAULT} has them all") from error
    return costs
