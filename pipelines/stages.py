"""The stages of a run, in order, and what each one reads: the pipeline as data.

A stage is a module `blm.pipelines.<name>` with a VERSION and a function of its own name. Nothing is imported here.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.schema import nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One step of the pipeline."""

    name: str
    """Also the name of its function, of its group of options, and the beginning of its folder's name."""
    inputs: tuple[str, ...] = ()
    """Stages whose folders it reads, in pipeline order."""
    about: str = ""
    """One line for people."""
    needs_ray: bool = True
    """Whether Ray must be up."""
    module: str = ""
    """Where it lives; by default the module of its name in this package."""

    @property
    def module_name(self) -> str:
        """Full name of the stage's module."""
        return self.module or f"{__package__}.{self.name}"

    def load(self) -> tuple[Callable[..., dict[str, Any]], int]:
        """The stage's function and its VERSION."""
        module = importlib.import_module(self.module_name)
        return getattr(module, self.name), module.VERSION


STAGES = (
    Stage(name="collect", about="plan and execute demonstrations; keep simulator states"),
    Stage(name="render", inputs=("collect",), about="replay the states to pictures; write a LeRobot dataset"),
    Stage(
        name="corpora", inputs=("collect",), about="questions and answers from simulator truth, plus general language"
    ),
    Stage(name="stage1", inputs=("corpora",), about="fine-tune the multimodal model on them"),
    Stage(
        name="intents", inputs=("render", "stage1"), about="store the frozen model's hidden states; probe what they see"
    ),
    Stage(name="stage2", inputs=("render", "stage1", "intents"), about="train the policy on stored hidden states"),
    Stage(name="baseline", inputs=("render",), about="train Diffusion Policy on the same demonstrations, if asked to"),
    Stage(
        name="evaluate",
        inputs=("corpora", "stage1", "stage2", "baseline"),
        about="roll out on unseen seeds; ask held-out questions",
    ),
    Stage(
        name="report",
        inputs=("collect", "render", "corpora", "stage1", "intents", "stage2", "baseline", "evaluate"),
        about="one HTML page with tables, intervals, curves and videos",
        needs_ray=False,
    ),
)
"""collect -> render -> corpora -> stage1 -> intents -> stage2 -> baseline -> evaluate -> report."""


def find_stage(name: str, stages: Sequence[Stage] = STAGES) -> int:
    """Position of a stage by name. UserError suggesting the nearest one."""
    names = [stage.name for stage in stages]
    if name not in names:
        raise UserError(f"unknown stage {name!r}; {nearest(name, names)}")
    return names.index(name)
