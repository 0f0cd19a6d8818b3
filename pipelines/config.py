"""The configuration of a run: what each stage declares beside its code, composed, and filled from a preset.

A preset is a YAML file with one group of options a stage, perhaps made from another one (`base: paper`);
`--set stage1.steps=500` overrides single options. The defaults are what suits the `tiny` preset, which is therefore
short. Importing this module imports every stage, but none of the heavy packages: a run with nothing left to do ends in
a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blm.actors.sim.world import WorldConfig
from blm.model.errors import UserError
from blm.pipelines.baseline import BaselineConfig
from blm.pipelines.collect import CollectConfig
from blm.pipelines.corpora import CorporaConfig
from blm.pipelines.evaluate import EvaluateConfig
from blm.pipelines.intents import IntentsConfig
from blm.pipelines.preset_files import merge, preset_path, read_preset
from blm.pipelines.render import RenderConfig
from blm.pipelines.report import ReportConfig
from blm.pipelines.schema import build, check, parse_yaml
from blm.pipelines.stage1 import Stage1Config
from blm.pipelines.stage2 import Stage2Config
from blm.pipelines.workspace import ResourceConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything a run is made of."""

    name: str = "tiny"
    """Folder under the runs folder; by default the preset's name."""
    seed: int = 0
    """Root of all randomness."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Cells, cameras, picture size, robot geometry."""
    resources: ResourceConfig = field(default_factory=ResourceConfig)
    """What the machine may give; never changes which results are valid."""
    collect: CollectConfig = field(default_factory=CollectConfig)
    """Demonstrations planned and executed in the simulator."""
    render: RenderConfig = field(default_factory=RenderConfig)
    """Kept states to a dataset of pictures."""
    corpora: CorporaConfig = field(default_factory=CorporaConfig)
    """Conversations for Stage I."""
    stage1: Stage1Config = field(default_factory=Stage1Config)
    """Supervised fine-tuning of the multimodal model."""
    intents: IntentsConfig = field(default_factory=IntentsConfig)
    """Cached hidden states of the frozen multimodal model."""
    stage2: Stage2Config = field(default_factory=Stage2Config)
    """The policy on top of them."""
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    """Diffusion Policy beside it, from the same demonstrations."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Rollouts on unseen seeds and held-out questions."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """The page with the results."""

    def __post_init__(self) -> None:
        if not self.name or self.name != Path(self.name).name or self.name.startswith("."):
            raise UserError(f"name is {self.name!r}; give a plain folder name")


def load_config(preset: str, overrides: Sequence[str] = (), *, name: str | None = None) -> RunConfig:
    """The configuration of a preset (a name, or the path of a YAML file) with `key=value` overrides.

    Raises UserError naming the file or the override, the option, and what is expected.
    """
    return load_typed(RunConfig, preset, overrides, name=name)


def load_typed(cls: type, preset: str, overrides: Sequence[str] = (), *, name: str | None = None) -> Any:
    """`load_config` for any configuration class that has a `name` and nests dataclasses."""
    path = preset_path(preset)
    values = read_preset(path, lambda own, where: check(cls, own, where=where))
    values.setdefault("name", path.stem)
    for override in overrides:
        given = parse_override(override)
        check(cls, given, where=f"--set {override}")  # alone, so that a message blames the right one
        values = merge(values, given)
    if name is not None:
        values["name"] = name
    where = " ".join([str(path), *(f"--set {override}" for override in overrides)])
    return build(cls, values, where=where)


def parse_override(text: str) -> dict[str, Any]:
    """`a.b=1` -> {"a": {"b": 1}}; the value is read as YAML. UserError if it is not written key=value."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text}: write it as --set stage.option=value, for example --set stage1.steps=500")
    nested: Any = parse_yaml(value, where=f"--set {text}")
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return nested
