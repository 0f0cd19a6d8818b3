"""EgoThink: 700 questions about first-person pictures in twelve sub-categories, answered freely and graded by a judge.

    data/<Category>/[<sub>/]annotations.json + images/N.jpg     as in its repository
    <Category_sub>/test-*.parquet                               as in the copies on the hub (image, question, answer)

The score is the mean of the twelve, each counting alike although they hold 50 or 100 questions.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.model.prompts import IMAGE_PLACEHOLDER
from blm.pipelines.datasets.parquet import read_table
from blm.pipelines.digital.item import Decoding, Item, Media
from blm.pipelines.digital.locate import find_files
from blm.pipelines.workspace import read_json

NAME = "egothink"
CATEGORIES = {
    "activity": 100,
    "forecast": 100,
    "localization_location": 50,
    "localization_spatial": 50,
    "object_affordance": 50,
    "object_attribute": 50,
    "object_existence": 50,
    "planning_assistance": 50,
    "planning_navigation": 50,
    "reasoning_comparing": 50,
    "reasoning_counting": 50,
    "reasoning_situated": 50,
}
"""Sub-category -> published number of questions, in the paper's order."""
LONG_ANSWERS = frozenset({"planning_assistance", "planning_navigation"})
SHORT, LONG = Decoding(max_new_tokens=30), Decoding(max_new_tokens=300)


def prompt(question: str) -> str:
    """EgoThink's words around a question for models behind an interface."""
    return f"Please let your answer be as short as possible. Question: {question} Short answer:"


def load(root: Path) -> list[Item]:
    """Every question of the sub-categories that are there. UserError if there is none, or a file is malformed."""
    items: list[Item] = []
    for category in CATEGORIES:
        files = find_files(root, lambda path, category=category: category_of(path) == category)  # type: ignore[misc]
        if files:
            items += _read(files[0], category)
    if not items:
        raise UserError(
            f"no annotations.json of EgoThink below {root}; clone github.com/AdaCheng/EgoThink there, or use --hub"
        )
    return items


def category_of(path: Path) -> str:
    """The sub-category whose annotations a file holds; empty if it is no such file."""
    folders = [part.lower() for part in path.parent.parts[-2:]]
    if path.name == "annotations.json":
        joined = "_".join(folders)
        names = (joined, folders[-1])
    elif path.suffix == ".parquet" and path.name.startswith("test"):
        names = (folders[-1], folders[-1])
    else:
        return ""
    return next((name for name in (_spelling(name) for name in names) if name in CATEGORIES), "")


def _spelling(name: str) -> str:
    return "forecast" if name == "forecasting" else name


def _read(path: Path, category: str) -> list[Item]:
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    return [_item(category, index, *row) for index, row in enumerate(rows)]


def _json_rows(path: Path) -> Iterator[tuple[str, str, Media]]:
    rows = read_json(path)
    try:
        for row in rows:
            names = row["image_path"]
            name = Path(names[0] if isinstance(names, list) else names).name
            yield row["question"], row["answer"], Media(kind="image", path=str(path.parent / "images" / name))
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a file of EgoThink ({type(error).__name__}: {error})") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, str, Media]]:
    table: dict[str, Any] = read_table(path, ("question", "answer")).to_pydict()
    for row, (question, answer) in enumerate(zip(table["question"], table["answer"], strict=True)):
        yield question, answer, Media(kind="image", path=str(path), row=row)


def _item(category: str, index: int, question: str, answer: str, media: Media) -> Item:
    return Item(
        id=f"{category}-{index:04d}",
        benchmark=NAME,
        category=category,
        messages=({"role": "user", "text": f"{IMAGE_PLACEHOLDER}{prompt(question)}"},),
        media=(media,),
        reference=answer,
        question=question,
        decoding=LONG if category in LONG_ANSWERS else SHORT,
        missing="" if media.row >= 0 or Path(media.path).is_file() else media.path,
    )
