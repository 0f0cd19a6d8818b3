"""Robot datasets from elsewhere: which columns of a LeRobotDataset v3.0 are the state, the action and the pictures.

    render:
      sources:
      - name: pusht                      # the robot's name from here on
        root: /data/lerobot/pusht
        state: ["observation.state"]     # columns, or parts of them: "observation.state[0:7]", "effort[3]"
        action: ["action"]
        cameras: {front: observation.image, side: observation.image}     # ours: theirs
        relative_to: []                  # for each action the state value it is measured from, -1: none; []: absolute

The render stage checks a source and writes what it found to `lerobot/<name>/source.json`; nothing is copied. From then
on `windows.dataset.RobotDataset` reads it like one of our own.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from blm.model.embodiments import EMBODIMENTS, suggest
from blm.model.errors import UserError
from blm.model.layout import ABSOLUTE, Layout, layout_from_json, layout_to_json
from blm.pipelines.datasets.lerobot import LeRobotDataset
from blm.pipelines.datasets.lerobot_schema import Feature, column_values
from blm.pipelines.workspace import read_json, write_json

SOURCE = "source.json"
FORMAT = 1
_PART = re.compile(r"(?P<column>[^\[\]]+)(?:\[(?P<first>\d+)(?P<colon>:(?P<end>\d*))?\])?")


@dataclass(frozen=True, kw_only=True, slots=True)
class RobotSourceConfig:
    """A robot dataset that was not made here, and what its columns mean."""

    name: str
    """What its robot is called from here on; not the name of a robot that is simulated."""
    root: Path
    """Folder of the LeRobotDataset v3.0."""
    state: tuple[str, ...] = ("observation.state",)
    """Columns that make up the state, one behind the other: a column, a part of one (`column[0:7]`), or one value of it
    (`column[3]`).
    """
    action: tuple[str, ...] = ("action",)
    """The same for the action."""
    cameras: dict[str, str] = field(default_factory=dict)
    """For each camera of the world, the column with its pictures; two cameras may share one."""
    relative_to: tuple[int, ...] = ()
    """For each action value the state value it is measured from, -1 for none; empty: all are taken as they are."""
    lower: tuple[float, ...] = ()
    """Least value of each action; empty: none."""
    upper: tuple[float, ...] = ()
    """Greatest value of each action; empty: none."""
    control_hz: int = 0
    """Actions a second, a divisor of the dataset's frame rate; 0: one for every frame."""
    instruction: str = ""
    """What the robot is told in every episode; empty: the dataset's own task."""
    instruction_column: str = ""
    """A column of text that says it in its episode's first frame."""

    def __post_init__(self) -> None:
        if self.name in EMBODIMENTS:
            raise UserError(f"source {self.name!r} has the name of a simulated robot; give it another one")
        if not self.state or not self.action:
            raise UserError(f"source {self.name}: name at least one column of state and one of action")
        for part in (*self.state, *self.action):
            if not _PART.fullmatch(part):
                raise UserError(f"source {self.name}: {part!r} is not a column; write column, column[3] or column[0:7]")
        if self.instruction and self.instruction_column:
            raise UserError(f"source {self.name}: give instruction or instruction_column, not both")
        if self.control_hz < 0:
            raise UserError(f"source {self.name}: control_hz is {self.control_hz}; give 1 or more, or 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnPart:
    """Some values of one column."""

    column: str
    """Its name."""
    values: slice
    """Which of its values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignSource:
    """What `source.json` says: a mapping that was checked against its dataset."""

    config: RobotSourceConfig
    """As configured."""
    layout: Layout
    """What the policy knows of the robot."""
    image_px: int
    """Side of the pictures that are handed out, whatever is stored."""


def check_source(config: RobotSourceConfig, cameras: Sequence[str], image_px: int) -> ForeignSource:
    """The source with the layout that follows from its dataset.

    UserError for a folder that is no dataset or holds no episode, columns that are missing or of another kind,
    parts beyond a column's end, and cameras of the world without a column.
    """
    dataset = LeRobotDataset(config.root)
    where = f"source {config.name} ({config.root})"
    if not dataset.episodes:
        raise UserError(f"{where} holds no demonstrations; leave it out, or name another folder")
    hz = config.control_hz or dataset.fps
    if dataset.fps % hz:
        raise UserError(f"{where}: control_hz is {hz}; its {dataset.fps} frames a second are no multiple of it")
    unknown = sorted(set(config.cameras) - set(cameras))
    if unknown:
        raise UserError(
            f"{where}: cameras names {unknown[0]!r}, which world.cameras does not; {suggest(unknown[0], cameras)}"
        )
    for camera in cameras:
        if camera not in config.cameras:
            raise UserError(f"{where}: cameras has no column for {camera!r}; give every camera of world.cameras one")
        feature = _feature(dataset, config.cameras[camera], where)
        if not feature.is_picture:
            raise UserError(
                f"{where}: column {config.cameras[camera]!r} of camera {camera!r} holds {feature.dtype}, not pictures"
            )
    if config.instruction_column and _feature(dataset, config.instruction_column, where).dtype != "string":
        raise UserError(f"{where}: column {config.instruction_column!r} of the instruction holds no text")
    state = _names(dataset, config.state, where)
    action = _names(dataset, config.action, where)
    layout = Layout(
        name=config.name,
        state_names=state,
        action_names=action,
        relative_to=config.relative_to or (ABSOLUTE,) * len(action),
        lower=config.lower or (-math.inf,) * len(action),
        upper=config.upper or (math.inf,) * len(action),
        control_hz=hz,
    )
    return ForeignSource(config=config, layout=layout, image_px=image_px)


def _feature(dataset: LeRobotDataset, column: str, where: str) -> Feature:
    if column not in dataset.features:
        raise UserError(f"{where} has no column {column!r}; {suggest(column, dataset.features)}")
    return dataset.features[column]


def _names(dataset: LeRobotDataset, parts: Sequence[str], where: str) -> tuple[str, ...]:
    """What the values of columns one behind the other are called. UserError if one is missing or not a vector."""
    names: list[str] = []
    for text in parts:
        part = column_part(text)
        feature = _feature(dataset, part.column, where)
        if feature.is_picture or feature.dtype == "string" or len(feature.shape) != 1:
            raise UserError(f"{where}: column {part.column!r} is no list of numbers ({feature.dtype} {feature.shape})")
        width = feature.shape[0]
        known = feature.names if feature.names and len(feature.names) == width else [str(i) for i in range(width)]
        chosen = range(width)[part.values]
        if len(chosen) == 0 or (part.values.stop or 0) > width:
            raise UserError(f"{where}: {text!r} goes beyond the {width} values of the column")
        names += [f"{part.column}.{known[i]}" for i in chosen]
    return tuple(names)


def column_part(text: str) -> ColumnPart:
    """`column`, `column[3]` or `column[0:7]`."""
    match = _PART.fullmatch(text)
    assert match is not None, text
    if match["first"] is None:
        return ColumnPart(column=match["column"], values=slice(None))
    first = int(match["first"])
    if match["colon"] is None:
        return ColumnPart(column=match["column"], values=slice(first, first + 1))
    return ColumnPart(column=match["column"], values=slice(first, int(match["end"]) if match["end"] else None))


def joined_values(features: Mapping[str, Feature], frames: pa.Table, parts: Sequence[str]) -> np.ndarray:
    """The values of columns one behind the other, float32 [n, D]."""
    chosen = [column_part(text) for text in parts]
    columns = [column_values(features[part.column], frames[part.column])[:, part.values] for part in chosen]
    return np.concatenate(columns, axis=1).astype(np.float32)


def write_source(folder: Path, source: ForeignSource) -> None:
    """`source.json` in the robot's folder of a render stage."""
    config: dict[str, Any] = asdict(source.config) | {"root": str(source.config.root.resolve())}
    entry = {"config": config, "layout": layout_to_json(source.layout), "image_px": source.image_px}
    write_json(folder / SOURCE, {"format": FORMAT} | entry)


def read_source(folder: Path) -> ForeignSource:
    """The inverse. UserError if it is missing, damaged or of another version."""
    entry = read_json(folder / SOURCE)
    if entry.get("format") != FORMAT:
        raise UserError(f"{folder / SOURCE} is of another version of this program; run the render stage again")
    config: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in entry["config"].items()
    }
    return ForeignSource(
        config=RobotSourceConfig(**config | {"root": Path(config["root"])}),
        layout=layout_from_json(entry["layout"]),
        image_px=entry["image_px"],
    )
