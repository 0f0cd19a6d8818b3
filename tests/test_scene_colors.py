"""Which objects are repainted: only such as the pictures show."""

import numpy as np
import pytest
from small_episodes import demonstrated

from blm.actors.sim.episode import write_episodes
from blm.actors.sim.world import WorldConfig
from blm.pipelines.corpora import CorporaConfig
from blm.pipelines.datasets.parquet import read_table
from blm.pipelines.datasets.scenes import COVERED_BY_GOAL_M, SceneWorker

pytestmark = pytest.mark.sim

WORLD = WorldConfig(cells=("panda/PickCube",), cameras=("front", "side"), image_px=56)


def test_what_the_goal_covers_is_not_painted_and_everything_else_is(tmp_path):
    write_episodes(tmp_path / "source.parquet", [demonstrated("panda/PickCube", seed) for seed in (0, 1)])
    item = {
        "split": "train", "cell": "panda/PickCube", "cell_index": 0, "first": 0, "count": 80,
        "sources": [str(tmp_path / "source.parquet")], "part": str(tmp_path / "part.parquet"),
    }  # fmt: skip
    SceneWorker(CorporaConfig(recolor_share=1.0, episode_share=1.0), WORLD, seed=0)(item)
    rows = read_table(tmp_path / "part.parquet", ("color", "object_positions")).to_pylist()
    covered = []
    for row in rows:
        _, thing, goal = np.array(row["object_positions"]).reshape(3, 3)
        covered.append(float(np.linalg.norm(thing - goal)) < COVERED_BY_GOAL_M["PickCube"])
    assert any(covered)
    assert not all(covered)
    assert [row["color"] is None for row in rows] == covered
