"""Which of two policies is better: scenes that both met, looked at round by round until that is clear or the end.

What a side has is a finished evaluation, or a policy that is rolled out as far as the comparison needs it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from blm.model.errors import UserError
from blm.pipelines.evaluation.paired import (
    Outcomes,
    cell_rows,
    common_seeds,
    count,
    require_same_scenes,
    require_same_world,
    side_row,
)
from blm.pipelines.evaluation.sequential import Rules, Verdict, judge, log_evidence, summary

GROWTH = 1.5
"""Of live sides each look has so many times the scenes of the last: starting simulators and models takes a while."""


class Side(Protocol):
    """One of the two."""

    @property
    def live(self) -> bool:
        """Whether scenes that are missing can be rolled out."""

    def outcomes(self, cells: Sequence[str], seeds: Sequence[int]) -> Outcomes:
        """Its episodes; those of these scenes are among them, if that is possible."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """An evaluation that is there."""

    found: Outcomes
    live: bool = False

    def outcomes(self, cells: Sequence[str], seeds: Sequence[int]) -> Outcomes:
        """All its episodes."""
        return self.found


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is compared, as it was before anything was seen."""

    cells: tuple[str, ...]
    seeds: tuple[int, ...]
    """Scene seeds, in the order in which they are met; each in every cell."""
    looks: tuple[int, ...]
    """Numbers of seeds after which it is looked; the last is all."""
    rules: Rules
    end_is_spent: bool = False
    """Whether a shorter comparison in the same folder has had its end already; then evidence alone decides."""


def looks(rounds: int, first: int, *, early: bool, live: bool) -> tuple[int, ...]:
    """After how many of `rounds` it is looked: after each one where that costs nothing, else after `first` and after
    `GROWTH` times as many; never early: at the end alone.
    """
    if not early:
        return (rounds,)
    if not live:
        return tuple(range(1, rounds + 1))
    found = []
    after = min(first, rounds)
    while after < rounds:
        found.append(after)
        after = max(after + 1, round(after * GROWTH))
    return (*found, rounds)


def shared_scenes(cells: Sequence[str], sides: Sequence[Outcomes]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Cells and seeds that all finished sides have: those wanted or, if none are named, all that they share.

    Where cells have other numbers of episodes, the seeds that are in every one of them. UserError if there are none.
    """
    common = tuple(cell for cell in sides[0].cells if all(cell in side.cells for side in sides))
    if missing := [cell for cell in cells if cell not in common]:
        raise UserError(f"no episodes of {missing[0]} on both sides; both have {', '.join(common) or 'no cell'}")
    chosen = tuple(cells) or common
    seeds = tuple(common_seeds(chosen, sides)) if chosen else ()
    if not seeds:
        where = " and ".join(side.source for side in sides)
        raise UserError(f"{where} share no scene: no seed was met in every cell; evaluate them on the same seeds")
    return chosen, seeds


def _told_apart(first: Outcomes, second: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Both sides, with other names if they have one name."""
    if first.name != second.name:
        return first, second
    return replace(first, name=f"{first.name} (A)"), replace(second, name=f"{second.name} (B)")


def compare(first: Side, second: Side, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Look until a verdict or the end; returns what `compare.json` holds. UserError if scenes cannot be paired."""
    path = []
    for rounds in plan.looks:
        seeds = plan.seeds[:rounds]
        scenes = [(cell, seed) for seed in seeds for cell in plan.cells]
        a, b = _told_apart(first.outcomes(plan.cells, seeds), second.outcomes(plan.cells, seeds))
        require_same_world(a, b)
        backend = require_same_scenes(a, b, scenes)
        counts = count(a, b, scenes)
        apart = counts.only_first, counts.only_second
        at_end = rounds == len(plan.seeds) and not plan.end_is_spent
        verdict = Verdict(int(judge(*apart, counts.pairs, plan.rules, at_end=at_end)))
        path.append([counts.pairs, *apart, round(float(log_evidence(*apart)), 4)])
        if first.live or second.live:
            say(f"{counts.pairs} scenes: {counts.only_first} done by {a.name} alone, {counts.only_second} by {b.name}")
        if verdict is not Verdict.OPEN:
            break
    winner = {Verdict.FIRST: a.name, Verdict.SECOND: b.name}.get(verdict)
    return {
        "verdict": verdict.name.lower(),
        "better": winner,
        "backend": backend,
        "first": side_row(a, scenes),
        "second": side_row(b, scenes),
        **asdict(counts),
        **summary(*apart, counts.pairs, plan.rules),
        "rules": asdict(plan.rules),
        "rounds": rounds,
        "rounds_planned": len(plan.seeds),
        "end_was_spent": plan.end_is_spent,
        "stopped_early": rounds < len(plan.seeds),
        "cells": cell_rows(a, b, plan.cells, seeds),
        "path": path,
    }
