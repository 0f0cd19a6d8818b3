"""How many models Stage II trains, and for which cells each: one for all, one a robot, or one a cell.

The three regimes of the paper. Whatever the regime, `models.json` lists what was made:

    [{"scope": "all", "folder": "model", "cells": ["panda/PushCube", ...]}]
    [{"scope": "panda/PushCube", "folder": "models/panda-PushCube", "cells": ["panda/PushCube"]}, ...]
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blm.actors.sim.tasks import TASKS
from blm.actors.sim.world import parse_cell
from blm.model.embodiments import EMBODIMENTS
from blm.model.errors import UserError
from blm.pipelines.workspace import read_json, write_json

Per = Literal["all", "robot", "cell"]
MODELS = "models.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """One model and what it is for."""

    name: str
    """`all`, a robot, or a cell."""
    folder: str
    """Of its checkpoint, below the stage's folder."""
    robots: tuple[str, ...]
    """Datasets it learns from."""
    cells: tuple[str, ...]
    """Cells it learns; of a foreign dataset, what stands in for them: its name and a task's words."""

    @property
    def slug(self) -> str:
        """As written in folder names."""
        return slug_of(self.name)

    @property
    def playable(self) -> tuple[str, ...]:
        """Those of its cells that the simulator has."""
        return tuple(cell for cell in self.cells if is_cell(cell))


def slug_of(name: str) -> str:
    """`panda/PushCube` -> `panda-PushCube`; anything else becomes a folder name too."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.") or "model"


def is_cell(text: str) -> bool:
    """Whether it names a robot and a task that the simulator has."""
    robot, _, task = text.partition("/")
    return robot in EMBODIMENTS and task in TASKS


def check_cells(cells: Sequence[str]) -> None:
    """UserError for what is written like a cell, `robot/Task`, and is none that the simulator has."""
    for cell in cells:
        if cell.count("/") == 1 and " " not in cell:  # of a foreign dataset it is a name and the task's words
            parse_cell(cell)


def scopes(per: Per, cells_of: dict[str, Sequence[str]], chosen: Sequence[str] = ()) -> list[Scope]:
    """The models of a regime, in order of `cells_of`.

    cells_of: the cells of each robot of which there are windows to learn from. chosen: only these (`stage2.cells`);
    none: all. UserError for a chosen cell without demonstrations.
    """
    known = {cell for cells in cells_of.values() for cell in cells}
    for cell in chosen:
        if cell not in known:
            raise UserError(
                f"stage2.cells names {cell}, of which there are no demonstrations; there are some of"
                f" {', '.join(sorted(known)) or 'no cell'}"
            )
    mine = {
        robot: tuple(cell for cell in cells if not chosen or cell in chosen)
        for robot, cells in cells_of.items()
        if not chosen or any(cell in chosen for cell in cells)
    }
    if per == "all":
        everything = tuple(cell for cells in mine.values() for cell in cells)
        return [Scope(name="all", folder="model", robots=tuple(mine), cells=everything)]
    if per == "robot":
        return [
            Scope(name=robot, folder=f"models/{robot}", robots=(robot,), cells=cells) for robot, cells in mine.items()
        ]
    return [
        Scope(name=cell, folder=f"models/{slug_of(cell)}", robots=(robot,), cells=(cell,))
        for robot, cells in mine.items()
        for cell in cells
    ]


def write_models(out: Path, made: Sequence[Scope]) -> None:
    """Write `models.json`."""
    write_json(
        out / MODELS, [{"scope": scope.name, "folder": scope.folder, "cells": list(scope.cells)} for scope in made]
    )


def read_models(out: Path) -> list[dict[str, Any]]:
    """What a finished stage made: scope, folder (below `out`) and cells of each model. UserError if it is damaged."""
    return read_json(out / MODELS)


def model_for(out: Path, cell: str) -> Path:
    """Folder of the model that is to act in a cell. UserError if none was trained for it."""
    models = read_models(out)
    for model in models:
        if model["scope"] == "all" or cell in model["cells"]:
            return out / model["folder"]
    raise UserError(f"{out} holds no model for {cell}; there are some for {', '.join(m['scope'] for m in models)}")
