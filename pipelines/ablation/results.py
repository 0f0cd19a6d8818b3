"""What base and ablations came to: figures for `ablations.json`, pooled over seeds.

Success is compared episode by episode: ablation and base meet the same scenes, so McNemar's exact test counts those
that only one of the two brings off. Several seeds are pooled as one sample of episodes; that says how sure we are of
these trained models, and less of what another training would give.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blm.pipelines.ablation.study import Outcome
from blm.pipelines.evaluation.contestants import OURS
from blm.pipelines.statistics import Result, mcnemar, success_row
from blm.pipelines.workspace import read_json_if_there

FORMAT = 1
POLICY_STAGES = ("stage1", "intents", "stage2")
"""What it takes to make a policy once the data is there."""

Key = tuple[int, str, int]
"""Seed of the run, cell, seed of the episode."""


def results(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """A row for each ablation, the base (which must be among them) first.

    `name`, `about`, `overrides`; `overall` and `cells`: counts, rate, interval, and `mcnemar` against the base
    (`only_first`: episodes that only the ablation brings off); `seeds`: what each seed's run found, or its `error`,
    or a `note` why it was not run.
    """
    by_name: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_name.setdefault(outcome.ablation.name, []).append(outcome)
    episodes = {name: _episodes(mine) for name, mine in by_name.items()}
    base = next(iter(by_name))
    return [_row(mine, episodes[name], None if name == base else episodes[base]) for name, mine in by_name.items()]


def _row(mine: Sequence[Outcome], episodes: Mapping[Key, Result], base: Mapping[Key, Result] | None) -> dict[str, Any]:
    cells = list(dict.fromkeys(cell for _, cell, _ in episodes))
    return {
        "name": mine[0].ablation.name,
        "about": mine[0].ablation.about,
        "overrides": list(mine[0].ablation.overrides),
        "overall": _compare(episodes, base),
        "cells": [{"cell": cell} | _compare(_of(cell, episodes), base and _of(cell, base)) for cell in cells],
        "seeds": [_run(outcome) for outcome in mine],
    }


def _compare(episodes: Mapping[Key, Result], base: Mapping[Key, Result] | None) -> dict[str, Any]:
    """Success with its interval and, beside the base, the exact test on the episodes that both have run."""
    row = success_row(list(episodes.values()))
    if base is not None:
        row["mcnemar"] = mcnemar(_successes(episodes), _successes(base))
    return row


def _of(cell: str, episodes: Mapping[Key, Result]) -> dict[Key, Result]:
    return {key: result for key, result in episodes.items() if key[1] == cell}


def _successes(episodes: Mapping[Key, Result]) -> dict[Hashable, bool]:
    return {key: bool(result["success"]) for key, result in episodes.items()}


def _episodes(outcomes: Sequence[Outcome]) -> dict[Key, Result]:
    """Our policy's episodes of all seeds."""
    found: dict[Key, Result] = {}
    for outcome in outcomes:
        if "evaluate" in outcome.done:
            for result in _lines(outcome.done["evaluate"].folder / "episodes.jsonl"):
                if result["policy"] == OURS:
                    found[outcome.seed, result["cell"], result["seed"]] = result
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _run(outcome: Outcome) -> dict[str, Any]:
    """One seed's run beside its episodes. Figures that a stage does not have are None.

    `wall_s`: of the stages that make the policy, whoever ran them first; `own_s`: of all stages that are not the
    base's.
    """
    done = outcome.done
    summary = {name: item.manifest["summary"] for name, item in done.items()}
    walls = {name: item.manifest["wall_s"] for name, item in done.items()}
    probe = read_json_if_there(done["intents"].folder / "probe.json") if "intents" in done else None
    return {
        "seed": outcome.seed,
        "error": outcome.error or None,
        "note": outcome.note or None,
        "val_flow": summary.get("stage2", {}).get("val_flow"),
        "samples_per_s": summary.get("stage2", {}).get("samples_per_s"),
        "probe_cm": {cell["cell"]: cell["object_cm"] for cell in (probe or {}).get("cells", [])},
        "digital_accuracy": summary.get("evaluate", {}).get("digital_accuracy"),
        "wall_s": round(sum(walls.get(name, 0.0) for name in POLICY_STAGES), 1) if done else None,
        "own_s": round(sum(wall for name, wall in walls.items() if name not in outcome.shared), 1) if done else None,
        "stages": {
            name: {"folder": item.folder.name, "wall_s": walls[name], "of_base": name in outcome.shared}
            for name, item in done.items()
        },
    }
