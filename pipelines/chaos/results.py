"""What a trial found: for people, and as one JSON object."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from blm.pipelines.chaos.comparison import EXCEPTIONS, Compared
from blm.pipelines.chaos.counts import Tally


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Of one trial."""

    planned: int
    """Kills that were asked for."""
    seed: int
    kills: Sequence[Mapping[str, Any]]
    """Those that were made, as the books have them."""
    undisturbed_s: Mapping[str, float]
    """By stage."""
    disturbed_s: Mapping[str, float]
    """By stage, from its begin to its end, all that happened in between included."""
    starts: int
    """Of the driver."""
    gave_up: int
    """How often it ended by itself, with an error, and was started again."""
    tallies: Sequence[Tally]
    compared: Sequence[Compared]

    @property
    def equal(self) -> bool:
        """Whether the disturbed run ended with what the undisturbed one has."""
        return all(one.equal for one in self.compared)

    @property
    def lost(self) -> int:
        """Pieces that only the undisturbed run has."""
        return sum(tally.lost for tally in self.tallies)

    @property
    def doubled(self) -> int:
        """Pieces that the disturbed run has more often."""
        return sum(tally.doubled for tally in self.tallies)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        back = [record["back_s"] for record in self.kills if record["back_s"] is not None]
        return {
            "planned": self.planned,
            "kills": len(self.kills),
            "seed": self.seed,
            "kinds": dict(Counter(record["kind"] for record in self.kills)),
            "recovered": len(back),
            "median_back_s": _median(back),
            "driver_starts": self.starts,
            "driver_gave_up": self.gave_up,
            "undisturbed_s": round(sum(self.undisturbed_s.values()), 1),
            "disturbed_s": round(sum(self.disturbed_s.values()), 1),
            "lost_s": round(sum(row["lost_s"] for row in self.rows()), 1),
            "lost": self.lost,
            "doubled": self.doubled,
            "equal": self.equal,
            "stages": self.rows(),
            "pieces": [asdict(tally) for tally in self.tallies],
            "files": [asdict(one) | {"equal": one.equal} for one in self.compared],
            "left_out": [asdict(one) for one in EXCEPTIONS],
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row a stage."""
        rows = []
        for one in self.compared:
            mine = [record for record in self.kills if record["stage"] == one.stage]
            back = [record["back_s"] for record in mine if record["back_s"] is not None]
            took_s = self.disturbed_s.get(one.stage, 0.0)
            kinds = Counter(record["kind"] for record in mine)
            rows.append(
                {
                    "stage": one.stage,
                    "kills": len(mine),
                    **{kind: kinds[kind] for kind in ("worker", "node", "driver")},
                    "recovered": len(back),
                    "median_back_s": _median(back),
                    "longest_back_s": max(back, default=None),
                    "undisturbed_s": round(self.undisturbed_s[one.stage], 1),
                    "disturbed_s": round(took_s, 1),
                    "lost_s": round(max(took_s - self.undisturbed_s[one.stage], 0.0), 1),
                    "files_same": one.same,
                    "equal": one.equal,
                }
            )
        return rows


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 1) if values else None


def text(result: Result) -> str:
    """The tables."""
    lines = [
        f"{'stage':<10}{'kills':>6}{'worker':>8}{'node':>6}{'driver':>8}{'got over':>10}{'after, median':>15}"
        f"{'undisturbed':>13}{'disturbed':>11}{'lost':>9}  files"
    ]
    for row, one in zip(result.rows(), result.compared, strict=True):
        lines.append(
            f"{row['stage']:<10}{row['kills']:>6}{row['worker']:>8}{row['node']:>6}{row['driver']:>8}"
            f"{row['recovered']:>10}{_seconds(row['median_back_s']):>15}{_seconds(row['undisturbed_s']):>13}"
            f"{_seconds(row['disturbed_s']):>11}{_seconds(row['lost_s']):>9}  {_files(one)}"
        )
    lines += ["", f"{'pieces':<22}{'undisturbed':>13}{'disturbed':>11}{'lost':>6}{'doubled':>9}"]
    for tally in result.tallies:
        lines.append(f"{tally.what:<22}{tally.expected:>13}{tally.found:>11}{tally.lost:>6}{tally.doubled:>9}")
    lines += ["", *_kinds(result), "", *_not_compared(result), *_verdict(result)]
    return "\n".join(lines)


def _files(one: Compared) -> str:
    """What the comparison of a stage found."""
    if not one.equal:
        names = [*one.different, *one.missing, *one.extra]
        return f"DIFFERENT: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
    parts = [f"{one.same} the same bit by bit"]
    parts += [f"{len(one.alike)} but for times"] if one.alike else []
    parts += [f"{len(one.left_out)} not compared"] if one.left_out else []
    return ", ".join(parts)


def _kinds(result: Result) -> list[str]:
    """What was killed, most frequent first."""
    counts = Counter(f"{record['kind']} {record['what']}".strip() for record in result.kills)
    return ["killed: " + ", ".join(f"{name} {count}" for name, count in counts.most_common())] if counts else []


def _not_compared(result: Result) -> list[str]:
    stages = {one.stage for one in result.compared}
    lines = ["not compared bit by bit:"]
    for exempt in EXCEPTIONS:
        if exempt.stage in stages:
            part = f" without {', '.join(exempt.without)}" if exempt.without else ""
            lines.append(f"  {exempt.stage}/{exempt.pattern}{part}: {exempt.why}")
    return [*lines, ""] if len(lines) > 1 else []


def _verdict(result: Result) -> list[str]:
    found = result.to_json()
    lines = []
    if len(result.kills) < result.planned:
        lines.append(f"the run ended before all kills were made: {len(result.kills)} of {result.planned}")
    if result.gave_up:
        lines.append(f"the driver ended by itself {result.gave_up} times and was started again")
    lines.append(
        f"{len(result.kills)} kills, of which the run got over {found['recovered']};"
        f" {found['lost_s']:.0f} s lost over {found['undisturbed_s']:.0f} s of work; {result.lost} pieces lost,"
        f" {result.doubled} doubled; the results are {'the same' if result.equal else 'NOT THE SAME'}"
    )
    return lines


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
