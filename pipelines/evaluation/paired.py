"""Two policies on the same scenes: who met what, read from finished evaluations, and counted scene by scene.

A round is one scene seed in every cell, met by both. Comparisons are looked at after whole rounds, see `sequential`.
"""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blm.model.errors import UserError
from blm.pipelines.keeping import RUN
from blm.pipelines.statistics import Result, holm, mcnemar, one_backend, wilson
from blm.pipelines.workspace import read_json, read_json_if_there

EPISODES = "episodes.jsonl"
PREFERRED = "blm"
"""Whose episodes are meant where an evaluation holds those of several policies and none is named."""

SCENE_OPTIONS = ("geometry", "spawn_shift_m", "spawn_spread")
"""Options of the world that decide what a seed means."""

Scene = tuple[str, int]
"""(cell, seed)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """What became of one policy's episodes."""

    name: str
    """In tables."""
    source: str
    """Where they come from: a file, or what the policy was named by."""
    folder: Path | None = None
    """Of the evaluation, if it is a finished one."""
    episodes: Mapping[Scene, Result] = field(default_factory=dict)
    """Lines of `episodes.jsonl`."""

    @property
    def cells(self) -> list[str]:
        """Cells with an episode, in order of occurrence."""
        return list(dict.fromkeys(cell for cell, _ in self.episodes))


def evaluation_file(reference: str) -> Path | None:
    """`episodes.jsonl` of a run, of a stage's folder, or as it stands; None if the reference is nothing of these.

    UserError for a run that has not been evaluated.
    """
    path = Path(reference).expanduser()
    if path.is_file():
        return path
    if (path / EPISODES).is_file():
        return path / EPISODES
    if (path / RUN).is_file():
        stage = read_json(path / RUN)["stages"].get("evaluate", {}).get("folder", "")
        if not (path / stage / EPISODES).is_file():
            raise UserError(f"{path} has not been evaluated; run its stage `evaluate` first")
        return path / stage / EPISODES
    return None


def read_outcomes(reference: str) -> Outcomes | None:
    """The episodes that a reference names: a path, with `@policy` behind it where several policies are there.

    None if there is no such path. UserError if it holds no episodes of the policy, or of several and none is named.
    """
    path, policy = evaluation_file(reference), ""
    if path is None and "@" in reference:
        folder, _, policy = reference.rpartition("@")
        path = evaluation_file(folder)
    if path is None:
        return None
    records = read_episodes(path)
    there = list(dict.fromkeys(record["policy"] for record in records))
    if not there:
        raise UserError(f"{path} holds no episodes")
    chosen = policy or (PREFERRED if PREFERRED in there else there[0])
    if chosen not in there:
        raise UserError(f"{path} holds no episodes of {chosen!r}; it has {', '.join(there)}")
    if not policy and chosen != PREFERRED and len(there) > 1:
        raise UserError(f"{path} holds episodes of {', '.join(there)}; name one, as in {path}@{there[0]}")
    mine = {(record["cell"], record["seed"]): record for record in records if record["policy"] == chosen}
    return Outcomes(name=label(reference), source=f"{path}@{chosen}", folder=path.parent, episodes=mine)


def label(reference: str) -> str:
    """A reference as tables name it: the last parts of a long path."""
    parts = reference.rstrip("/").split("/")
    return reference if "://" in reference else "/".join(parts[-3:])


def world_values(side: Outcomes) -> dict[str, Any]:
    """The options of the world that a finished evaluation was made in. UserError if nothing beside it says so."""
    for name in ("manifest.json", "stage.json", "evaluation.json"):
        path = (side.folder or Path()) / name
        world = (read_json_if_there(path) or {}).get("world") if side.folder else None
        if world:
            return dict(world)
    raise UserError(f"{side.source}: no file beside it says in which world its episodes were run")


def require_same_world(first: Outcomes, second: Outcomes) -> None:
    """UserError if two finished evaluations are known to have put things in other places."""
    if first.folder is None or second.folder is None:
        return
    try:
        one, other = world_values(first), world_values(second)
    except UserError:
        return  # bare files: their backends and instructions are still compared
    for name in SCENE_OPTIONS:
        if one.get(name) != other.get(name):
            raise UserError(
                f"{first.source} has world.{name}={one.get(name)}, {second.source} {other.get(name)}: the same seeds"
                " are other scenes there; evaluate both in one world"
            )


def read_episodes(path: Path) -> list[dict[str, Any]]:
    """The lines of an `episodes.jsonl`; a torn last one is left out. UserError naming the line that is damaged."""
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
            if not {"cell", "seed", "policy", "success", "error"} <= record.keys():
                raise ValueError("fields are missing")
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path} line {number} is no episode ({error})") from error
        records.append(record)
    return records


def common_seeds(cells: Sequence[str], sides: Iterable[Outcomes]) -> list[int]:
    """Seeds that every side met in every cell, smallest first."""
    met = [{seed for at, seed in side.episodes if at == cell} for side in sides for cell in cells]
    return sorted(set.intersection(*met)) if met else []


def require_same_scenes(first: Outcomes, second: Outcomes, scenes: Iterable[Scene]) -> str:
    """What simulated the scenes on both sides; UserError if that differs, or if the two were told different words."""
    pairs = [(first.episodes[scene], second.episodes[scene]) for scene in scenes]
    backend = one_backend(record for pair in pairs for record in pair)
    for a, b in pairs:
        if a.get("instruction") != b.get("instruction"):
            raise UserError(
                f"{a['cell']} seed {a['seed']}: {first.source} was told {a.get('instruction')!r}, {second.source}"
                f" {b.get('instruction')!r}; only the same task in the same words can be compared"
            )
    return backend


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Scenes that both met."""

    pairs: int
    both: int
    """Done by both."""
    only_first: int
    only_second: int
    neither: int


def count(first: Outcomes, second: Outcomes, scenes: Iterable[Scene]) -> Counts:
    """How many of the scenes each did. An episode that broke counts as failed."""
    done = [(bool(first.episodes[scene]["success"]), bool(second.episodes[scene]["success"])) for scene in scenes]
    return Counts(
        pairs=len(done),
        both=done.count((True, True)),
        only_first=done.count((True, False)),
        only_second=done.count((False, True)),
        neither=done.count((False, False)),
    )


def side_row(side: Outcomes, scenes: Sequence[Scene]) -> dict[str, Any]:
    """One policy's share of a comparison: its rate with Wilson's interval, and how many episodes broke."""
    records = [side.episodes[scene] for scene in scenes]
    successes = sum(bool(record["success"]) for record in records)
    low, high = wilson(successes, len(records))
    return {
        "name": side.name,
        "source": side.source,
        "episodes": len(records),
        "successes": successes,
        "rate": successes / len(records) if records else 0.0,
        "low": low,
        "high": high,
        "errors": sum(bool(record["error"]) for record in records),
    }


def cell_rows(first: Outcomes, second: Outcomes, cells: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A row a cell: both rates, scenes that one alone did, McNemar's p, and p adjusted for the number of cells."""
    rows = []
    for cell in cells:
        a, b = (_successes(side, cell, seeds) for side in (first, second))
        rates = {"rate_first": sum(a.values()) / len(a), "rate_second": sum(b.values()) / len(b)} if seeds else {}
        rows.append({"cell": cell} | rates | mcnemar(a, b))
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_adjusted"] = adjusted
    return rows


def _successes(side: Outcomes, cell: str, seeds: Sequence[int]) -> dict[Hashable, bool]:
    """Whether it did the scene of each seed."""
    return {seed: bool(side.episodes[cell, seed]["success"]) for seed in seeds}
