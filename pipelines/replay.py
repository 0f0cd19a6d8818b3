"""`blm data replay DIR`: are the kept demonstrations what they say? Executes every one again and looks.

An episode is executed from its seed and its first state by its own actions, in a fresh simulator. It must end in
success, and pass through the kept states bit for bit where simulator and machine are those it was made with.
"""

import json
from pathlib import Path
from typing import Any

from blm.actors.sim.episode import collected_folders, episode_files, read_episodes
from blm.pipelines.datasets.items import map_items


class ReplayWorker:
    """Replays one file of episodes at a time. Called by Ray Data; works as well without."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """`{"source"}` -> counts, and the seeds that failed."""
        from blm.actors.sim.env import CellEnv
        from blm.actors.sim.execute import replay

        result: dict[str, Any] = {"cell": Path(item["source"]).parent.name, "episodes": 0, "success": 0, "exact": 0}
        failed: list[int] = []
        env: CellEnv | None = None
        for episode in read_episodes(Path(item["source"])):
            env = CellEnv.of(episode, env)
            replayed = replay(env, episode)
            result["episodes"] += 1
            result["success"] += replayed.success
            result["exact"] += replayed.exact
            if not replayed.success:
                failed.append(episode.seed)
        return result | {"failed": json.dumps(failed)}  # text: Ray Data has no type for a list that may be empty


def replay_folder(folder: Path, workers: int) -> dict[str, Any]:
    """Replays all episodes below a folder. Returns counts per cell; prints a table. UserError if there are none."""
    files = [path for root in collected_folders(folder) for path in episode_files(root)]
    cells: dict[str, dict[str, Any]] = {}
    for done in map_items([{"source": str(path)} for path in files], ReplayWorker, arguments={}, workers=workers):
        row = cells.setdefault(done["cell"], {"episodes": 0, "success": 0, "exact": 0, "failed": []})
        for name in ("episodes", "success", "exact"):
            row[name] += done[name]
        row["failed"] += json.loads(done["failed"])
    print(f"{'cell':<26}{'episodes':>9}{'to success':>12}{'bit for bit':>13}  failed seeds")
    for name, row in sorted(cells.items()):
        share = [f"{row[kind] / row['episodes']:.1%}" for kind in ("success", "exact")]
        failed = ", ".join(map(str, sorted(row["failed"])[:10])) or "none"
        print(f"{name:<26}{row['episodes']:>9}{share[0]:>12}{share[1]:>13}  {failed}")
    totals = {name: sum(row[name] for row in cells.values()) for name in ("episodes", "success", "exact")}
    return {"replay": str(folder), **totals, "cells": dict(sorted(cells.items()))}
