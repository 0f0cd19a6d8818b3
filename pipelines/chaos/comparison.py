"""Whether a disturbed run ended with what an undisturbed one has: every file, by the hashes in the stages' manifests.

Everything is compared bit by bit. A few files say how long something took, or hold such numbers beside their content:
`EXCEPTIONS` names them, and what of each is compared all the same.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.workspace import read_json, read_manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Exempt:
    """Files that two undisturbed runs do not agree on either."""

    stage: str
    pattern: str
    """As `fnmatch` has it, over the file's path in the stage's folder."""
    why: str
    without: tuple[str, ...] = ()
    """JSON keys, at any depth, that are left out of the comparison; none: the whole file is."""


RATES = ("seconds", "samples_per_s", "tokens_per_s", "mfu")
EXCEPTIONS = (
    Exempt(stage="stage1", pattern="metrics.json", without=RATES, why="seconds and rates stand beside the curve"),
    Exempt(stage="stage2", pattern="*metrics.json", without=RATES, why="seconds and rates stand beside the curve"),
    Exempt(stage="baseline", pattern="*metrics.json", without=RATES, why="seconds and rates stand beside the curve"),
    Exempt(
        stage="stage1",
        pattern="train/*",
        why="the last training checkpoint holds the seconds spent; the weights are compared",
    ),
    Exempt(
        stage="stage2",
        pattern="train/*.pt",
        why="the last training checkpoint holds the seconds spent; the weights are compared",
    ),
    Exempt(
        stage="baseline",
        pattern="train/*.pt",
        why="the last training checkpoint holds the seconds spent; the weights are compared",
    ),
    Exempt(stage="evaluate", pattern="timings.jsonl", why="seconds of every episode"),
    Exempt(stage="report", pattern="report.html", why="shows dates, times and deaths of workers"),
)
"""What is not compared bit by bit, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One stage of both runs."""

    stage: str
    same: int
    """Files with the same bits."""
    alike: tuple[str, ...]
    """Files of which the compared part is the same."""
    left_out: tuple[str, ...]
    """Files that are not compared."""
    missing: tuple[str, ...]
    """Only in the undisturbed run."""
    extra: tuple[str, ...]
    """Only in the disturbed run."""
    different: tuple[str, ...]
    """With other content."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """The disturbed run's manifest content hash, and the undisturbed one's, for people."""

    @property
    def equal(self) -> bool:
        """Whether the stage came out as without disturbance."""
        return not (self.missing or self.extra or self.different)


def compare(reference: Path, run: Path, stages: Mapping[str, str]) -> list[Compared]:
    """All stages of two finished runs.

    stages: their folders' names, by stage, the same in both. UserError if one is not finished.
    """
    return [_compare(stage, reference / folder, run / folder) for stage, folder in stages.items()]


def _compare(stage: str, reference: Path, run: Path) -> Compared:
    expected, found = _hashes(reference), _hashes(run)
    same, alike, left_out, different = 0, [], [], []
    for path in sorted(expected.keys() & found.keys()):
        exempt = exemption(stage, path)
        if expected[path] == found[path]:
            same += 1
        elif exempt is None:
            different.append(path)
        elif not exempt.without:
            left_out.append(path)
        elif _pruned(reference / path, exempt.without) == _pruned(run / path, exempt.without):
            alike.append(path)
        else:
            different.append(path)
    one_sided = {path for path in expected.keys() ^ found.keys() if not _left_out(stage, path)}
    return Compared(
        stage=stage,
        same=same,
        alike=tuple(alike),
        left_out=tuple(left_out),
        missing=tuple(sorted(one_sided & expected.keys())),
        extra=tuple(sorted(one_sided & found.keys())),
        different=tuple(different),
        hashes={"undisturbed": _content(reference), "disturbed": _content(run)},
    )


def exemption(stage: str, path: str) -> Exempt | None:
    """The exception that a file falls under."""
    return next((one for one in EXCEPTIONS if one.stage == stage and fnmatch(path, one.pattern)), None)


def _left_out(stage: str, path: str) -> bool:
    exempt = exemption(stage, path)
    return exempt is not None and not exempt.without


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} is not finished, so there is nothing to compare")
    return manifest


def _hashes(folder: Path) -> dict[str, str]:
    return {entry["path"]: entry["sha256"] for entry in _manifest(folder)["files"]}


def _content(folder: Path) -> str:
    return str(_manifest(folder)["content"])


def _pruned(path: Path, without: tuple[str, ...]) -> str:
    """A JSON file without some keys, as text."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: kept(item) for name, item in value.items() if name not in without}
        return [kept(item) for item in value] if isinstance(value, list) else value

    return json.dumps(kept(read_json(path)), sort_keys=True)
