"""Episode files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blm.actors.sim.episode import Episode, read_episodes, write_episodes
from blm.model.errors import UserError


def _episode(seed: int, steps: int, size: int = 57) -> Episode:
    rng = np.random.default_rng(seed)

    def random(rows: int, columns: int) -> np.ndarray:
        return rng.normal(size=(rows, columns)).astype(np.float32)

    return Episode(
        robot="panda",
        task="PushCube",
        seed=seed,
        geometry="lite",
        instruction="push the cube",
        control_hz=20,
        states=random(steps + 1, size),
        proprio=random(steps + 1, 8),
        actions=random(steps, 8),
        object_positions=random(steps + 1, 9),
        success=True,
        metrics={"attempts": 1, "first_success_step": None},
    )


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    episodes = [_episode(3, 20), _episode(1, 1), _episode(2, 35, size=60)]
    write_episodes(tmp_path / "deep/er/file.parquet", episodes)
    for ours, read in zip(episodes, read_episodes(tmp_path / "deep/er/file.parquet"), strict=True):
        for name in ("states", "proprio", "actions", "object_positions"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(read, name))
            assert getattr(read, name).dtype == np.float32
        assert (ours.seed, ours.cell, ours.instruction, ours.metrics) == (
            read.seed,
            read.cell,
            read.instruction,
            read.metrics,
        )
        assert read.success is True


def test_a_file_without_episodes_is_a_file(tmp_path: Path) -> None:
    write_episodes(tmp_path / "none.parquet", [])
    assert read_episodes(tmp_path / "none.parquet") == []


def test_the_same_episodes_give_the_same_bytes_and_leave_nothing_beside(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_episodes(tmp_path / f"{name}.parquet", [_episode(0, 12), _episode(1, 9)])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `blm collect`"):
        read_episodes(tmp_path / "nowhere.parquet")


@pytest.mark.parametrize("damage", ["truncated", "garbled", "empty", "another table", "nulls"])
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "file.parquet"
    write_episodes(path, [_episode(0, 30)])
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "garbled":
        path.write_bytes(whole[:200] + b"\xff" * 4000 + whole[4200:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "another table":
        pq.write_table(pa.table({"x": [1, 2]}), path)
    else:
        table = pq.read_table(path)
        index = table.schema.get_field_index("actions")
        pq.write_table(table.set_column(index, table.field(index), pa.nulls(1, table.field(index).type)), path)
    with pytest.raises(UserError, match=r"file\.parquet") as raised:
        read_episodes(path)
    assert "\n" not in str(raised.value)


def test_lengths_that_do_not_fit_are_refused() -> None:
    good = _episode(0, 5)
    with pytest.raises(ValueError, match="states must be float32"):
        Episode(
            **{
                **{name: getattr(good, name) for name in Episode.__slots__},
                "states": good.states[:-1],
            }
        )
