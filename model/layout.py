"""What the policy knows of a robot: the names of its numbers, which of them are measured from where, and their bounds.

Heads, statistics, checkpoints and the predictor know robots through layouts alone, so that a body nobody described here
(a dataset with two numbers for a pusher, or fourteen for two arms) trains like one of `EMBODIMENTS`. A checkpoint
stores the layouts it was trained with.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from blm.model.embodiments import GRIPPER_CLOSED, GRIPPER_OPEN, get_embodiment, suggest
from blm.model.errors import UserError

ABSOLUTE = -1
"""In `Layout.relative_to`: an action dimension that is not measured from the state."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The numbers of one robot, in its own units. UserError for what contradicts itself."""

    name: str
    """Letters, digits, `_` and `-`: it names the robot in datasets, folders and weights."""
    state_names: tuple[str, ...]
    """The S proprioceptive values."""
    action_names: tuple[str, ...]
    """The A action values."""
    relative_to: tuple[int, ...]
    """For each action dimension the state dimension it is measured from at the chunk's start, or `ABSOLUTE`."""
    lower: tuple[float, ...]
    """Lowest value of each action dimension; -inf: none."""
    upper: tuple[float, ...]
    """Highest value of each action dimension; inf: none."""
    control_hz: int
    """Actions a second."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(f"robot name {self.name!r}: use letters, digits, '_' and '-' alone, for example 'pusht'")
        if not self.state_names or not self.action_names:
            raise UserError(f"robot {self.name}: it needs at least one state value and one action value")
        for what in ("relative_to", "lower", "upper"):
            if len(getattr(self, what)) != self.action_dim:
                raise UserError(
                    f"robot {self.name}: {what} has {len(getattr(self, what))} entries for {self.action_dim} actions"
                )
        if wrong := [i for i in self.relative_to if not ABSOLUTE <= i < self.state_dim]:
            raise UserError(
                f"robot {self.name}: an action is relative to state value {wrong[0]}; give 0 to {self.state_dim - 1},"
                f" or {ABSOLUTE} for none"
            )
        for name, low, high in zip(self.action_names, self.lower, self.upper, strict=True):
            if not low <= high:
                raise UserError(f"robot {self.name}: bounds of {name} are {low} to {high}; give the lower first")
        if self.control_hz < 1:
            raise UserError(f"robot {self.name}: control_hz is {self.control_hz}; give 1 or more actions a second")

    @property
    def state_dim(self) -> int:
        """S."""
        return len(self.state_names)

    @property
    def action_dim(self) -> int:
        """A."""
        return len(self.action_names)


def layout_of(name: str) -> Layout:
    """The layout of a robot of `EMBODIMENTS`: arm targets relative to their own joint and within its limits, gripper
    absolute in [0 closed, 1 open]. UserError for an unknown name."""
    body = get_embodiment(name)
    return Layout(
        name=body.name,
        state_names=body.state_names,
        action_names=body.action_names,
        relative_to=(*range(body.arm_dof), ABSOLUTE),
        lower=(*body.joint_lower_rad, GRIPPER_CLOSED),
        upper=(*body.joint_upper_rad, GRIPPER_OPEN),
        control_hz=body.control_hz,
    )


def find_layout(layouts: Sequence[Layout], embodiment: str) -> Layout:
    """The layout of that name. UserError if there is none."""
    for layout in layouts:
        if layout.name == embodiment:
            return layout
    raise UserError(
        f"this model was not trained for {embodiment!r}; {suggest(embodiment, [layout.name for layout in layouts])}"
    )


def layout_to_json(layout: Layout) -> dict:
    """Plain data; a bound that does not exist is null."""
    return {
        "name": layout.name,
        "state_names": list(layout.state_names),
        "action_names": list(layout.action_names),
        "relative_to": list(layout.relative_to),
        "lower": [bound if math.isfinite(bound) else None for bound in layout.lower],
        "upper": [bound if math.isfinite(bound) else None for bound in layout.upper],
        "control_hz": layout.control_hz,
    }


def layout_from_json(data: dict) -> Layout:
    """The inverse of `layout_to_json`. KeyError or TypeError for other data, UserError for a layout that contradicts
    itself."""
    return Layout(
        name=data["name"],
        state_names=tuple(data["state_names"]),
        action_names=tuple(data["action_names"]),
        relative_to=tuple(int(i) for i in data["relative_to"]),
        lower=tuple(-math.inf if bound is None else float(bound) for bound in data["lower"]),
        upper=tuple(math.inf if bound is None else float(bound) for bound in data["upper"]),
        control_hz=int(data["control_hz"]),
    )
