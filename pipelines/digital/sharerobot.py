"""ShareRobot's planning questions: up to 30 frames of an episode as pictures, ten categories, answered freely.

    planning/test/<category>*.json     [{"id", "task", "conversations": [human, gpt], "image": [".../frame_0.png"]}]
    .../rt_frames_success/<shard>/<episode>/frame_<i>.png

The paper names no rule of scoring; its figures are what a judge's 0, 0.5 and 1 over 410 questions a category give.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from blm.model.errors import UserError
from blm.model.prompts import IMAGE_PLACEHOLDER
from blm.pipelines.digital.item import Decoding, Item, Media
from blm.pipelines.digital.locate import find_files, find_folders
from blm.pipelines.workspace import read_json

NAME = "sharerobot"
CATEGORIES = {
    "discriminative_affordance_(negative)_task": 410,
    "discriminative_affordance_(positive)_task": 410,
    "future_prediction_task": 410,
    "generative_affordance_task": 410,
    "past_description_task": 410,
    "planning_remaining_steps_task": 410,
    "planning_task": 410,
    "planning_with_context_task": 410,
    "success_(negative)_task": 410,
    "success_(positive)_task": 410,
}
"""Category -> number of questions that the paper's figures imply, in the paper's order."""
FRAMES = "rt_frames_success"
DECODING = Decoding(max_new_tokens=128)
"""Assumed: greedy, and long enough for the longest list of steps."""
T = TypeVar("T")
_PLACEHOLDER = re.compile(r"<image(?: [\d-]+)?>\s*")


def load(root: Path, frames: Path | None = None, max_images: int = 30) -> list[Item]:
    """Every question of the test files below `root`.

    frames: where `rt_frames_success` lies, if not below `root`. max_images: frames shown of an episode, spread evenly,
    the first and the last among them. UserError if there are no test files, or one is malformed.
    """
    stores = find_folders(frames or root, FRAMES)
    items = []
    for path in _test_files(root):
        rows = read_json(path)
        if not isinstance(rows, list):
            raise UserError(f"{path} does not hold a list of questions; it is not a file of ShareRobot")
        for index, row in enumerate(rows):
            items.append(_item(row, f"{path.stem}-{index:04d}", f"{path} row {index}", path, stores, max_images))
    return items


def _test_files(root: Path) -> list[Path]:
    """The files of questions, the test files if there are others beside them."""
    found = find_files(root, lambda path: path.suffix == ".json" and bool(category_of("", path.stem)))
    tests = [path for path in found if path.parent.name == "test"]
    mixed = [path for path in found if path.parent.name in ("jsons", "train")]
    if not tests and mixed:
        raise UserError(
            f"{mixed[0].parent} holds training questions too; download planning/test of BAAI/ShareRobot beside it"
        )
    files = tests or found
    if not files:
        raise UserError(
            f"no test files of ShareRobot below {root}; download planning/test of BAAI/ShareRobot there, or use --hub"
        )
    return [path for path in files if path.parent == files[0].parent]


def category_of(task: str, stem: str) -> str:
    """The category of a row by its `task`, or else by its file's name; empty if neither tells."""
    names = [task.strip().lower().replace(" ", "_")]
    names += [name for name in CATEGORIES if stem.lower().startswith(name)]
    return next((name for name in names if name in CATEGORIES), "")


def _item(row: Any, name: str, where: str, path: Path, stores: Sequence[Path], max_images: int) -> Item:
    try:
        category = category_of(str(row.get("task", "")), path.stem)
        human, gpt = (row["conversations"][i]["value"] for i in (0, 1))
        frames = [_frame(frame, stores, path) for frame in spread(list(row["image"]), max_images)]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{where} is not a question of ShareRobot ({type(error).__name__}: {error})") from error
    question = _PLACEHOLDER.sub("", human).strip()
    return Item(
        id=name,
        benchmark=NAME,
        category=category,
        messages=({"role": "user", "text": f"{IMAGE_PLACEHOLDER * len(frames)}\n{question}"},),
        media=tuple(Media(kind="image", path=str(frame)) for frame in frames),
        reference=gpt,
        question=question,
        decoding=DECODING,
        missing=next((str(frame) for frame in frames if not frame.is_file()), ""),
    )


def _frame(name: str, stores: Sequence[Path], path: Path) -> Path:
    """Where a frame lies. Rows name it by a path of the machine it was made on; what follows FRAMES in it is true."""
    inside = name.partition(f"{FRAMES}/")[2] or name
    for place in _places(inside, stores, path):
        if place.is_file():
            return place
    return next(_places(inside, stores, path))


def _places(inside: str, stores: Sequence[Path], path: Path) -> Iterator[Path]:
    yield from (store / inside for store in stores)
    yield path.parent.parent / "images" / inside
    yield path.parent / inside


def spread(values: list[T], most: int) -> list[T]:
    """At most `most` of a list, evenly, the first and the last among them."""
    if len(values) <= most:
        return values
    if most == 1:
        return values[:1]
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
