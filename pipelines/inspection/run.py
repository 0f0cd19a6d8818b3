"""The data doctor: reads datasets and collected demonstrations from end to end and says what is wrong with them.

blm data inspect runs/tiny                    every dataset of a run, and a page with videos to look at
blm data inspect path/to/dataset --no-gallery
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blm.actors.sim.episode import episode_files
from blm.model.embodiments import EMBODIMENTS
from blm.model.errors import UserError
from blm.pipelines.datasets.lerobot_schema import INFO_PATH
from blm.pipelines.inspection.cells import CellRow, check_cells, describe, table_lines
from blm.pipelines.inspection.collected import CollectedFolder
from blm.pipelines.inspection.episodes import EpisodeChecks
from blm.pipelines.inspection.facts import Facts, by_cell
from blm.pipelines.inspection.findings import Finding, Findings, lines, verdict
from blm.pipelines.inspection.lag import Lag
from blm.pipelines.inspection.lerobot import DatasetFolder, read_info
from blm.pipelines.inspection.pictures import PictureChecks
from blm.pipelines.inspection.schema import Numbering, check_schema
from blm.pipelines.inspection.stats import StatsCheck
from blm.pipelines.inspection.track import ACTION, STATE, About, Track
from blm.pipelines.show import size

DEFAULT_SAMPLES = 1000
"""Pictures of a camera that are decoded unless told otherwise."""
SAY_EVERY_S = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class JointRange:
    """What of a joint's range the states use, in rad."""

    robot: str
    name: str
    low: float
    high: float
    lower: float
    """Its limits."""
    upper: float

    def share(self, value: float) -> float:
        """Where a value lies between the limits, from 0 to 1."""
        return (value - self.lower) / (self.upper - self.lower)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What is known of one dataset or folder of demonstrations."""

    about: About
    findings: list[Finding]
    cells: list[CellRow]
    facts: list[Facts]
    lags: list[Lag]
    joints: list[JointRange]
    seconds: float
    source: DatasetFolder | CollectedFolder | None
    """To draw videos from; None if nothing could be read."""

    @property
    def errors(self) -> int:
        """Kinds of errors found."""
        return sum(one.severity == "error" for one in self.findings)

    def text(self) -> str:
        """For a terminal."""
        about = self.about
        facts = [about.kind, f"{len(self.facts)} episodes, {sum(one.length for one in self.facts)} frames"]
        facts += [f"{about.fps:g} frames/s"] if about.fps else []
        facts += [f"cameras {', '.join(about.cameras)}"] if about.cameras else []
        facts += [size(about.size_bytes), f"read in {self.seconds:.1f} s"]
        parts = ["", str(about.path), "  " + " · ".join(facts), "", *lines(self.findings)]
        if self.cells:
            parts += ["", *table_lines(self.cells)]
        return "\n".join([*parts, "", f"  {verdict(self.findings)}"])

    def to_json(self) -> dict[str, Any]:
        """Everything but the episodes."""
        about = asdict(self.about) | {"path": str(self.about.path)}
        return {
            **about,
            "episodes": len(self.facts),
            "frames": sum(one.length for one in self.facts),
            "seconds": round(self.seconds, 2),
            "findings": [asdict(one) for one in self.findings],
            "cells": [asdict(row) for row in self.cells],
            "lags": [{k: v for k, v in asdict(lag).items() if k != "curve"} for lag in self.lags],
        }


def find_sources(folder: Path) -> list[Path]:
    """Datasets and folders of demonstrations at or below a folder, in order. UserError if there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a LeRobot dataset, a stage's folder or a run's folder")
    found = {path.parent.parent for path in folder.rglob(INFO_PATH)}
    for path in folder.rglob("episodes"):
        root = path.parent
        if path.is_dir() and not (root.name == "meta" and root.parent in found) and episode_files(root):
            found.add(root)
    kept = sorted(path for path in found if not any(part.startswith(".tmp-") for part in path.parts))
    if not kept:
        raise UserError(
            f"{folder} holds neither a LeRobot dataset ({INFO_PATH}) nor collected episodes (episodes/*/*.parquet);"
            " give the folder of a dataset, of a stage or of a run"
        )
    return kept


def inspect_source(root: Path, *, n_samples: int = DEFAULT_SAMPLES, say: Say | None = None) -> Inspection:
    """Every check on one dataset or folder of demonstrations. n_samples: pictures of a camera to decode; 0: all."""
    began = time.perf_counter()
    findings = Findings()
    if not (root / INFO_PATH).exists():
        collected = CollectedFolder(root, findings)
        checks = EpisodeChecks(findings)
        for track in _told(collected.tracks(), say):
            checks.add(track)
        return _finished(collected, findings, checks, began)
    info = read_info(root, findings)
    if info is None:
        about = About(path=root, kind="LeRobotDataset")
        return Inspection(
            about=about, findings=findings.result(), cells=[], facts=[], lags=[], joints=[], seconds=0.0, source=None
        )
    dataset = DatasetFolder(root, info, findings)
    checks = EpisodeChecks(findings, dataset.names(STATE), dataset.names(ACTION))
    check_schema(dataset)
    numbering, stats = Numbering(dataset), StatsCheck(root, findings)
    for track in _told(dataset.tracks(), say):
        numbering.add(track)
        stats.add(track)
        checks.add(track)
    numbering.finish()
    stats.finish(dataset.picture_names, complete=not dataset.damaged)
    if say is not None and dataset.picture_names:
        say(f"pictures of {', '.join(dataset.picture_names)}")
    PictureChecks(dataset=dataset, n_samples=n_samples).run()
    return _finished(dataset, findings, checks, began)


def _finished(
    source: DatasetFolder | CollectedFolder, findings: Findings, checks: EpisodeChecks, began: float
) -> Inspection:
    if not checks.facts:
        findings.error("totals", "no episode could be read")
    lags = checks.finish()
    rows = [describe(cell, facts) for cell, facts in by_cell(checks.facts).items()]
    check_cells(rows, findings)
    return Inspection(
        about=source.about(),
        findings=findings.result(),
        cells=rows,
        facts=checks.facts,
        lags=lags,
        joints=_joint_ranges(checks),
        seconds=time.perf_counter() - began,
        source=source,
    )


def _joint_ranges(checks: EpisodeChecks) -> list[JointRange]:
    """The arm joints of every robot whose limits are known."""
    found = []
    for robot in sorted(checks.robots):
        body, low, high = EMBODIMENTS[robot], checks.lower.get((robot, STATE)), checks.upper.get((robot, STATE))
        if low is None or high is None:
            continue
        limits = zip(body.joint_names, low, high, body.joint_lower_rad, body.joint_upper_rad, strict=False)
        found += [
            JointRange(robot=robot, name=name, low=float(a), high=float(b), lower=lower, upper=upper)
            for name, a, b, lower, upper in limits
        ]
    return found


def _told(tracks: Iterator[Track], say: Say | None) -> Iterator[Track]:
    """The same, with a word every few seconds."""
    began = said = time.monotonic()
    for count, track in enumerate(tracks, start=1):
        yield track
        now = time.monotonic()
        if say is not None and now - said > SAY_EVERY_S:
            said = now
            say(f"{count} episodes read, {count / (now - began):.0f} a second")


def say_on_stderr(text: str) -> None:
    """Progress, kept apart from results."""
    print(f"[inspect] {text}", file=sys.stderr, flush=True)
