"""What a run has made, piece by piece: demonstrations, their pictures, conversations, results. Counted in the files
themselves, so that nothing is believed because a hash says so.
"""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

Keys = Counter[Hashable]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """One sort of piece in both runs."""

    what: str
    stage: str
    expected: int
    """In the undisturbed run."""
    found: int
    """In the disturbed run, each counted once."""
    lost: int
    """Of the undisturbed run's, not in the disturbed one."""
    doubled: int
    """In the disturbed run more often than in the undisturbed one, or only there."""


def tallies(reference: Path, run: Path, stages: Mapping[str, str]) -> list[Tally]:
    """Every sort of piece that the stages of two finished runs hold. stages: their folders' names."""
    found = []
    for (stage, what), count in COUNTERS.items():
        if stage in stages:
            expected, there = (count(root / stages[stage]) for root in (reference, run))
            if not expected and not there:
                continue
            found.append(
                Tally(
                    what=what,
                    stage=stage,
                    expected=expected.total(),
                    found=len(there),
                    lost=(expected - there).total(),
                    doubled=(there - expected).total(),
                )
            )
    return found


def _demonstrations(folder: Path) -> Keys:
    """(cell, seed) of every episode kept."""
    files = sorted((folder / "episodes").glob("*/*.parquet"))
    return Counter((path.parent.name, seed) for path in files for seed in _column(path, "seed"))


def _pictures(folder: Path) -> Keys:
    """(robot, number) of every rendered episode."""
    files = sorted(folder.glob("**/meta/episodes/*/*.parquet"))
    return Counter((path.parents[3].name, number) for path in files for number in _column(path, "episode_index"))


def _conversations(folder: Path) -> Keys:
    """(split, id) of every conversation; some questions are repeated on purpose, and count as often."""
    files = [path for split in ("train", "test") for path in sorted((folder / split).glob("*.parquet"))]
    return Counter((path.parent.name, name) for path in files for name in _column(path, "id"))


def _column(path: Path, name: str) -> list[Hashable]:
    values: list[Hashable] = pq.read_table(path, columns=[name]).column(name).to_pylist()
    return values


def _lines(file: str, *key: str) -> Callable[[Path], Keys]:
    """Counts the lines of a ledger by their key."""

    def count(folder: Path) -> Keys:
        path = folder / file
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(tuple(json.loads(line)[name] for name in key) for line in lines)

    return count


COUNTERS: dict[tuple[str, str], Callable[[Path], Keys]] = {
    ("collect", "demonstrations"): _demonstrations,
    ("render", "rendered episodes"): _pictures,
    ("corpora", "conversations"): _conversations,
    ("evaluate", "rollouts"): _lines("episodes.jsonl", "cell", "seed", "policy"),
    ("evaluate", "timings of rollouts"): _lines("timings.jsonl", "cell", "seed", "policy"),
    ("evaluate", "answers"): _lines("answers.jsonl", "id", "blank"),
}
