"""A folder of collected demonstrations read to be judged: simulator states in Parquet, no pictures.

episodes/<robot>-<Task>/seeds-<first>-<last>.parquet
outcomes/<robot>-<Task>/seeds-<first>-<last>.json      what came of every seed, if the collect stage made it
"""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from blm.actors.sim.episode import Episode, episode_files, read_episodes
from blm.model.errors import UserError
from blm.pipelines.inspection.findings import Findings
from blm.pipelines.inspection.track import ACTION, POSITIONS, STATE, About, Track, folder_bytes

Place = tuple[Path, int]
"""File and row of an episode."""


class CollectedFolder:
    """Demonstrations to be inspected."""

    def __init__(self, root: Path, findings: Findings) -> None:
        self.root = root
        self.findings = findings
        self.places: dict[int, Place] = {}
        """Where the episode of a number is."""
        self.tried: dict[str, int] = {}
        """Seeds tried of each cell, as far as outcomes are kept."""
        self.control_hz: set[int] = set()

    @cached_property
    def files(self) -> list[Path]:
        """Files of episodes, in order."""
        return episode_files(self.root)

    def about(self) -> About:
        """For the heading, once the episodes were read."""
        fps = float(next(iter(self.control_hz))) if len(self.control_hz) == 1 else 0.0
        return About(
            path=self.root, kind="collected demonstrations, states only", fps=fps, size_bytes=folder_bytes(self.root)
        )

    def tracks(self) -> Iterator[Track]:
        """Every episode, in the order of files."""
        number = 0
        state_sizes: dict[str, int] = {}
        for path in self.files:
            where = str(path.relative_to(self.root))
            try:
                episodes = read_episodes(path)
            except (UserError, ValueError) as error:
                self.findings.error(
                    "files", "not readable as episodes (cut short or overwritten)", f"{where} ({error})"
                )
                continue
            outcomes = self._outcomes(path)
            for row, episode in enumerate(episodes):
                track = _track(number, episode, outcomes.get(episode.seed, {}))
                size = state_sizes.setdefault(episode.cell, episode.states.shape[1])
                if episode.states.shape[1] != size:
                    self.findings.error(
                        "schema", "simulator states of another size than others of the cell", track.label
                    )
                if path.parent.name != f"{episode.robot}-{episode.task}":
                    self.findings.error("schema", "in a folder of another cell", f"{track.label} in {where}")
                self.places[number] = (path, row)
                self.control_hz.add(episode.control_hz)
                number += 1
                yield track
            self._compare(where, episodes, outcomes)
        self._find_orphans()
        self.findings.looked_at("files", f"{len(self.files)} file{'s' if len(self.files) != 1 else ''} read to the end")
        self.findings.looked_at("totals", f"{number} episodes" + (", as outcomes say" if self.tried else ""))
        self.findings.looked_at("schema", "states, actions and positions of matching lengths and sizes")

    def _find_orphans(self) -> None:
        """Outcomes of seeds whose file of episodes is gone."""
        there = {path.relative_to(self.root / "episodes").with_suffix("") for path in self.files}
        for path in sorted((self.root / "outcomes").glob("*/*.json")):
            if path.relative_to(self.root / "outcomes").with_suffix("") not in there:
                self.findings.error("files", "outcomes without their episodes", str(path.relative_to(self.root)))

    def episode(self, number: int) -> Episode:
        """One episode again, to be drawn."""
        path, row = self.places[number]
        return read_episodes(path)[row]

    def _outcomes(self, path: Path) -> dict[int, dict[str, Any]]:
        """seed -> what came of it; empty if nothing was kept."""
        file = self.root / "outcomes" / path.parent.name / f"{path.stem}.json"
        if not file.exists():
            return {}
        try:
            return {int(row["seed"]): row for row in json.loads(file.read_text())}
        except (ValueError, KeyError, TypeError, OSError) as error:
            self.findings.error("files", "outcomes are not readable", f"{file.relative_to(self.root)} ({error})")
            return {}

    def _compare(self, where: str, episodes: list[Episode], outcomes: dict[int, dict[str, Any]]) -> None:
        """A file's episodes against the outcomes of its seeds."""
        if not outcomes:
            return
        cell = episodes[0].cell if episodes else where
        self.tried[cell] = self.tried.get(cell, 0) + len(outcomes)
        kept = {seed: row["steps"] for seed, row in outcomes.items() if row.get("steps") is not None}
        there = {one.seed: len(one.actions) for one in episodes}
        for seed in sorted(kept.keys() ^ there.keys()):
            how = "kept, say the outcomes, but not there" if seed in kept else "there, but not among the outcomes kept"
            self.findings.error("totals", how, f"{where} seed {seed}")
        for seed in sorted(kept.keys() & there.keys()):
            if kept[seed] != there[seed]:
                self.findings.error("totals", "of another length than the outcomes say", f"{where} seed {seed}")


def _track(number: int, episode: Episode, outcome: dict[str, Any]) -> Track:
    metrics = episode.metrics
    extra: dict[str, Any] = {"seed": episode.seed, "success": episode.success, "geometry": episode.geometry}
    if "first_plan" in outcome or "attempts" in metrics:
        extra["first_plan"] = bool(outcome.get("first_plan", metrics.get("attempts") == 1))
    if "disturbed" in metrics:
        extra["disturbed"] = bool(metrics["disturbed"])
    return Track(
        label=f"{episode.cell} seed {episode.seed}",
        number=number,
        cell=episode.cell,
        task=episode.instruction,
        fps=float(episode.control_hz),
        robot=episode.robot,
        values={
            STATE: episode.proprio,
            ACTION: episode.actions,
            POSITIONS: episode.object_positions,
            "simulator states": episode.states,
        },
        extra=extra,
    )
