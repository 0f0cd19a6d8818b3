"""How to talk to a policy server that knows nothing of us: a YAML file with its names of things and its units.

    robots: [panda]
    pictures: {observation/image: front}            # its name: our camera
    picture_px: 224
    state:                                          # its name: columns of our state; the last one is the gripper
      observation/joint_position: [0, 1, 2, 3, 4, 5, 6]
      observation/gripper_position: [7]
    actions: {joints: [0, 1, 2, 3, 4, 5, 6], gripper: 7, joints_are: from_state, hz: 15}

Only joints can be mapped: actions in the space of the hand would need the server's own kinematics.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from blm.actors.sim.cameras import CAMERAS
from blm.model.embodiments import Embodiment, get_embodiment, suggest
from blm.model.errors import UserError

JOINTS_ARE = ("targets", "from_state", "from_previous")


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionMapping:
    """What a row of the server's actions means. UserError for what cannot be."""

    key: str = "actions"
    """Where the reply holds them, float [rows, columns] or one row."""
    joints: tuple[int, ...] = ()
    """Columns of the arm's joints, base to tip; empty: the first ones."""
    gripper: int = -1
    """Column of the gripper; -1: the last one."""
    joints_are: str = "targets"
    """`targets`: positions; `from_state`: measured from where the joints were in the observation; `from_previous`: each
    row measured from the row before (velocities are, with `rad: 1 / hz`)."""
    rad: float = 1.0
    """Radians in one of the server's units: 0.017453 for degrees."""
    gripper_closed: float = 0.0
    """What it commands to close the gripper."""
    gripper_open: float = 1.0
    """What it commands to open it."""
    hz: float = 20.0
    """Its rows a second; another rate than the robot's is interpolated."""
    rows: int = 1
    """vla-eval: actions that the server makes of one look and hands out one by one (its chunk size)."""

    def __post_init__(self) -> None:
        if self.joints_are not in JOINTS_ARE:
            raise UserError(f"actions.joints_are: {suggest(str(self.joints_are), JOINTS_ARE)}")
        _columns("actions.joints", self.joints)
        _finite(rad=self.rad, gripper_closed=self.gripper_closed, gripper_open=self.gripper_open, hz=self.hz)
        if type(self.gripper) is not int or self.gripper < -1 or type(self.rows) is not int or self.rows < 1:
            raise UserError("actions.gripper must be a column or -1, and actions.rows a number of rows")
        if self.rad == 0 or self.hz <= 0 or self.gripper_closed == self.gripper_open:
            raise UserError("actions: rad and hz must not be 0, and gripper_closed and gripper_open must differ")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteMapping:
    """A whole mapping. UserError for what cannot be."""

    robots: tuple[str, ...]
    """Robots of ours that it holds for."""
    pictures: Mapping[str, str]
    """Its name of a picture -> our camera."""
    picture_px: int = 0
    """Side of the pictures it wants; 0: as they are."""
    picture_format: str = "raw"
    """vla-eval: `raw`, or `png` for slow networks."""
    instruction: str = ""
    """Its name of the task in words; empty: the protocol's usual one."""
    state: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Its name of an array -> columns of our state."""
    state_rad: float = 1.0
    """Radians in one of the units of its joints."""
    gripper_closed: float = 0.0
    """What it calls a closed gripper in the state."""
    gripper_open: float = 1.0
    """What it calls an open one."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every observation."""
    actions: ActionMapping = field(default_factory=ActionMapping)
    """What comes back."""

    def __post_init__(self) -> None:
        if not self.robots:
            raise UserError("robots is empty; name the robots that this mapping holds for, for example [panda]")
        for robot in self.robots:
            self.check_robot(get_embodiment(str(robot)))
        for theirs, ours in self.pictures.items():
            if ours not in CAMERAS:
                raise UserError(f"pictures: {theirs}: {suggest(str(ours), CAMERAS)}")
        if self.picture_format not in ("raw", "png"):
            raise UserError(f"picture_format is {self.picture_format!r}; give raw or png")
        if type(self.picture_px) is not int or self.picture_px < 0:
            raise UserError(f"picture_px is {self.picture_px!r}; give a number of pixels, or 0")
        _finite(state_rad=self.state_rad, gripper_closed=self.gripper_closed, gripper_open=self.gripper_open)
        if self.state_rad == 0 or self.gripper_closed == self.gripper_open:
            raise UserError("state_rad must not be 0, and gripper_closed and gripper_open must differ")

    def check_robot(self, robot: Embodiment) -> None:
        """UserError unless columns of state and actions are those of the robot."""
        for theirs, columns in self.state.items():
            _columns(f"state: {theirs}", columns)
            if any(column >= robot.state_dim for column in columns):
                raise UserError(f"state: {theirs}: {robot.name} has {robot.state_dim} values, numbered from 0")
        if self.actions.joints and len(self.actions.joints) != robot.arm_dof:
            raise UserError(f"actions.joints: {robot.name} has {robot.arm_dof} joints, not {len(self.actions.joints)}")


def read_mapping(path: Path) -> RemoteMapping:
    """The mapping in a YAML file. UserError names the file and what is wrong in it."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"mapping {path} cannot be read ({' '.join(str(error).split())})") from error
    try:
        mapping: RemoteMapping = _fill(RemoteMapping, data)
        return mapping
    except (UserError, TypeError) as error:
        raise UserError(f"mapping {path}: {error}") from error


def _fill(kind: Any, data: Any) -> Any:
    """A dataclass from plain values, lists as tuples. UserError for unknown or missing names."""
    if not isinstance(data, dict):
        raise UserError(f"expected names with values, not {type(data).__name__}")
    known = {one.name: one for one in dataclasses.fields(kind)}
    for name in data:
        if name not in known:
            raise UserError(f"unknown entry {name!r}; {suggest(str(name), known)}")
    for name in ("robots", "pictures"):
        if name in known and name not in data:
            raise UserError(f"{name!r} is missing")
    values = {name: _tuples(value) for name, value in data.items()}
    for name in ("pictures", "state", "constants"):
        if not isinstance(values.get(name, {}), dict):
            raise UserError(f"{name!r} must be names with values")
    if "robots" in values and not isinstance(values["robots"], tuple):
        raise UserError("'robots' must be a list")
    if "actions" in values:
        values["actions"] = _fill(ActionMapping, data["actions"])
    return kind(**values)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(one) for one in value)
    return {name: _tuples(one) for name, one in value.items()} if isinstance(value, dict) else value


def _columns(what: str, columns: Any) -> None:
    known = isinstance(columns, tuple) and all(type(column) is int and column >= 0 for column in columns)
    if not known or len(set(columns)) != len(columns):
        raise UserError(f"{what} must be a list of different columns, numbered from 0")


def _finite(**values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{name} is {value!r}; give a number")
