"""Ways in which datasets are damaged, one by one: what the data doctor must find."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

DATA = "data/chunk-000/file-000.parquet"
META = "meta/episodes/chunk-000/file-000.parquet"
STATE = "observation.state"

Change = Callable[[np.ndarray, np.ndarray], Any]
"""Alters a column's values [N,...] in place; gets the episode of each row too."""


def edit(root: Path, column: str, change: Change, file: str = DATA) -> None:
    """Rewrites one column; `change` gets its values [N,D] and the episode of each row."""
    table = pq.read_table(root / file)
    kind = table.schema.field(column).type
    values = np.array(table[column].to_pylist())
    change(values, np.array(table["episode_index"].to_pylist()))
    table = table.set_column(table.column_names.index(column), column, pa.array(values.tolist(), kind))
    pq.write_table(table, root / file)


def edit_picture(root: Path, row: int, make: Callable[[bytes], bytes], count: int = 1) -> None:
    table = pq.read_table(root / DATA)
    column = "observation.images.front"
    cells = table[column].to_pylist()
    for number in range(row, row + count):
        cells[number] = {"bytes": make(cells[row]["bytes"]), "path": None}
    kind = table.schema.field(column).type
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(cells, kind)), root / DATA)


def edit_info(root: Path, **changes: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def jpeg(width: int, height: int, colour: tuple[int, int, int] | None = None) -> bytes:
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(np.full_like(picture, colour) if colour else picture).save(buffer, "JPEG")
    return buffer.getvalue()


def freeze(values: np.ndarray, episode: np.ndarray) -> None:
    values[episode == 2, 4] = values[episode == 2, 4][0]


def freeze_for_a_while(values: np.ndarray, episode: np.ndarray) -> None:
    rows = np.flatnonzero(episode == 1)[1:12]
    values[rows, 2] = values[rows[0], 2]


def everywhere_the_same(values: np.ndarray, episode: np.ndarray) -> None:
    values[:, 3] = -1.5


def shift_one_episode(values: np.ndarray, episode: np.ndarray) -> None:
    rows = episode == 5
    values[rows] = np.concatenate([values[rows][4:], np.repeat(values[rows][-1:], 4, axis=0)])


def delay_actions(values: np.ndarray, episode: np.ndarray) -> None:
    for number in np.unique(episode):
        rows = episode == number
        values[rows] = np.concatenate([np.repeat(values[rows][:1], 4, axis=0), values[rows][:-4]])


def tremble(values: np.ndarray, episode: np.ndarray) -> None:
    rows = episode == 6
    values[rows, :7] += np.random.default_rng(0).normal(0, 0.15, (int(rows.sum()), 7))


def copy_episode(root: Path) -> None:
    def copied(values: np.ndarray, episode: np.ndarray) -> None:
        values[episode == 3] = values[episode == 0]

    edit(root, "observation.state", copied)
    edit(root, "action", copied)


def copy_states(root: Path) -> None:
    table = pq.read_table(root / DATA)
    table = table.set_column(table.column_names.index("action"), "action", table[STATE])
    pq.write_table(table, root / DATA)


def skip_frames(values: np.ndarray, episode: np.ndarray) -> None:
    rows = np.flatnonzero(episode == 1)[7:]
    values[rows] += 0.3


def cut(root: Path, file: str, keep: float = 0.6) -> None:
    content = (root / file).read_bytes()
    (root / file).write_bytes(content[: int(len(content) * keep)])


def drop_column(root: Path) -> None:
    pq.write_table(pq.read_table(root / DATA).drop_columns("next.success"), root / DATA)


def as_double(root: Path) -> None:
    table = pq.read_table(root / DATA)
    wide = table["action"].cast(pa.list_(pa.float64(), 8))
    pq.write_table(table.set_column(table.column_names.index("action"), "action", wide), root / DATA)


def wrong_stats(root: Path) -> None:
    path = root / "meta/stats.json"
    stats = json.loads(path.read_text())
    stats["action"]["mean"][1] += 0.05
    path.write_text(json.dumps(stats))


E, W = "error", "warning"


@dataclass(frozen=True)
class Damage:
    """What is done to a dataset; the check that must find it, how gravely, and words it must say."""

    name: str
    do: Callable[[Path], None]
    check: str
    severity: str
    words: str


def column(name: str, change: Change, file: str = DATA) -> Callable[[Path], None]:
    return lambda root: edit(root, name, change, file)


def one(name: str, row: int, dimension: int, value: float) -> Callable[[Path], None]:
    return column(name, lambda values, _: values.__setitem__((row, dimension), value))


def rows(name: str, which: slice | int, value: float, file: str = DATA) -> Callable[[Path], None]:
    return column(name, lambda values, _: values.__setitem__(which, value), file)


def picture(row: int, make: Callable[[bytes], bytes], count: int = 1) -> Callable[[Path], None]:
    return lambda root: edit_picture(root, row, make, count)


def info(**changes: Any) -> Callable[[Path], None]:
    return lambda root: edit_info(root, **changes)


def cut_file(file: str) -> Callable[[Path], None]:
    return lambda root: cut(root, file)


DAMAGES = (
    Damage("NaN", one(STATE, 30, 2, np.nan), "finite", E, "episode 1 frame 9"),
    Damage("infinity", one("action", 3, 0, np.inf), "finite", E, "action is not a number: episode 0 frame 3"),
    Damage("stuck joint", column(STATE, freeze), "stuck", E, "panda_joint5.pos_rad never moves"),
    Damage("stuck for a while", column(STATE, freeze_for_a_while), "stuck", W, "episode 1"),
    Damage("constant", column("action", everywhere_the_same), "constant", W, "panda_joint4.target_rad"),
    Damage("timestamp gap", column("timestamp", skip_frames), "time", E, "episode 1 frame 7"),
    Damage("jitter", column("timestamp", lambda v, _: v.__iadd__(0.01)), "time", W, "multiples of 0.1 s"),
    Damage("frame order", rows("frame_index", 5, 9), "index", E, "episode 0 frame 5"),
    Damage("index", rows("index", slice(40, None), 0), "index", E, "index does not go on"),
    Damage("duplicate", copy_episode, "duplicates", E, "the same states and actions: episode 3 = episode 0"),
    Damage("same seed", rows("seed", 1, 0, META), "duplicates", E, "cell and seed: episode 1 = episode 0"),
    Damage("truncated data", cut_file(DATA), "files", E, DATA),
    Damage("truncated metadata", cut_file(META), "files", E, META),
    Damage("no metadata", lambda root: shutil.rmtree(root / "meta/episodes"), "files", E, "meta/episodes is missing"),
    Damage("info.json", cut_file("meta/info.json"), "files", E, "meta/info.json is not readable JSON"),
    Damage("broken JPEG", picture(25, lambda b: b[:400]), "pictures", E, "front: is cut short: episode 1 frame 4"),
    Damage("no picture", picture(0, lambda _: b""), "pictures", E, "has no bytes: episode 0 frame 0"),
    Damage("garbled", picture(2, lambda b: b[:30] + bytes(60) + b[-40:]), "pictures", E, "cannot be decoded"),
    Damage("wrong size", picture(1, lambda _: jpeg(64, 48)), "pictures", E, "64x48 px, declared"),
    Damage("one colour", picture(1, lambda _: jpeg(56, 56, (0, 0, 0))), "pictures", E, "of one colour"),
    Damage("frozen camera", picture(0, lambda b: b, count=20), "pictures", W, "episode 0 (20 of 21"),
    Damage("wrong totals", info(total_frames=99), "totals", E, "total_frames 99, the data hold 210"),
    Damage("wrong length", rows("length", 2, 7, META), "totals", E, "episode 2"),
    Damage("version", info(codebase_version="v2.1"), "schema", E, "codebase_version is v2.1"),
    Damage("lost column", drop_column, "schema", E, "next.success is declared but is no column"),
    Damage("other type", as_double, "schema", E, "action is stored as double, declared float32"),
    Damage(
        "action limit", one("action", 50, 1, 2.5), "limits", E, "frame 8 panda_joint2.target_rad (2.5, limits -1.763"
    ),
    Damage("gripper", one("action", 50, 7, -0.4), "limits", E, "gripper.command (-0.4, limits 0 to 1)"),
    Damage("leap", one(STATE, 50, 0, 1.9), "limits", W, "episode 2 panda_joint1.pos_rad ("),
    Damage("one episode shifted", column("action", shift_one_episode), "lag", E, "episode 5"),
    Damage("late everywhere", column("action", delay_actions), "lag", E, "states come before the actions"),
    Damage("actions copied from states", copy_states, "lag", W, "actions are the states of the same frame"),
    Damage("rough", column(STATE, tremble), "smoothness", W, "episode 6"),
    Damage("statistics", wrong_stats, "statistics", E, "action mean[1]"),
    Damage("failure", rows("next.success", slice(63, 84), False), "cells", W, "panda/PickCube (1 of 5)"),
)
