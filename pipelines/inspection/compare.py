"""Episodes compared with each other: what stands out among those of its cell, and what is there twice."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from blm.pipelines.inspection import arrays
from blm.pipelines.inspection.facts import Facts, ValueNames, by_cell
from blm.pipelines.inspection.findings import Findings
from blm.pipelines.inspection.lag import Lag
from blm.pipelines.inspection.track import STATE

ROUGHER = 10.0
"""Times the median roughness of its cell."""
LAG_DIFFERS_FRAMES, LAG_DIFFERS_S = 1.6, 0.2
"""How far an episode's lag may be from the median of its cell; the greater of the two."""
COPIED_FRAMES, COPIED_CORRELATION = 0.1, 0.999
"""Actions that near to the states of their own frame were copied from them."""
LATE_S = 0.4
"""States that follow later than this deserve a look."""


def compare_movement(facts: Sequence[Facts], names: ValueNames, findings: Findings) -> None:
    """Joints that stand still in one episode of a cell and not in others."""
    for members in by_cell(facts).values():
        if len({one.spans.shape for one in members}) != 1:
            continue
        for episode, joint in zip(*np.nonzero(arrays.stuck(np.stack([one.spans for one in members]))), strict=True):
            robot = members[episode].robot
            if names.is_gripper(joint, robot):
                continue
            findings.error(
                "stuck",
                f"{names.of(STATE, joint, robot)} never moves, though it does in most episodes of the cell",
                members[episode].label,
            )
    if any(one.spans.size for one in facts):
        findings.looked_at("stuck", "every joint that moves in its cell moves in every episode of it")


def compare_contents(facts: Sequence[Facts], findings: Findings) -> None:
    """Episodes that are there twice, by what they hold or by the scene they begin from."""
    for earlier, later in _pairs((one, (one.digest, one.extra.get("variant"))) for one in facts if one.digest):
        findings.error("duplicates", "the same states and actions", f"{later.label} = {earlier.label}")
    scenes = ((one, (one.cell, one.extra["seed"], one.extra.get("variant"))) for one in facts if "seed" in one.extra)
    for earlier, later in _pairs(scenes):
        findings.error("duplicates", "the same cell and seed", f"{later.label} = {earlier.label}")
    findings.looked_at("duplicates", f"{len(facts)} episodes differ in states, actions and seeds")


def compare_roughness(facts: Sequence[Facts], findings: Findings) -> None:
    """Episodes much rougher than others of their cell."""
    for members in by_cell(facts).values():
        rough = np.array([one.roughness for one in members])
        for place in arrays.far_above(rough, ROUGHER):
            findings.warn(
                "smoothness",
                f"more than {ROUGHER:g} times as rough as the median of its cell",
                f"{members[place].label} ({rough[place] / np.median(rough):.0f} times)",
            )
    findings.looked_at("smoothness", "no episode much rougher than its cell")


def compare_lags(facts: Sequence[Facts], lags: Sequence[Lag], fps: float, findings: Findings) -> None:
    """Groups of values that follow their actions too early or too late, and episodes unlike others of their cell."""
    for lag in lags:
        text = f"{lag.group}: {lag.frames:.1f} frames, {1000 * lag.seconds:.0f} ms"
        if lag.frames < -0.5:
            findings.error("lag", f"states come before the actions that should cause them ({text})")
        elif lag.seconds > LATE_S:
            findings.warn("lag", f"states follow their actions late ({text})")
        elif lag.kind == "absolute" and abs(lag.frames) < COPIED_FRAMES and lag.correlation > COPIED_CORRELATION:
            findings.warn(
                "lag", f"actions are the states of the same frame: whoever imitates them stands still ({text})"
            )
    if not lags:
        return
    arm = lags[0]
    for members in by_cell(facts).values():
        own = [(one, one.lag_frames) for one in members if one.lag_frames is not None]
        usual = float(np.median([lag for _, lag in own])) if own else 0.0
        allowed = max(LAG_DIFFERS_FRAMES, LAG_DIFFERS_S * fps)
        for one, lag_frames in own:
            if abs(lag_frames - usual) > allowed:
                findings.error(
                    "lag",
                    "actions and states are shifted against each other, unlike in other episodes of the cell",
                    f"{one.label} ({lag_frames:+.1f} frames, others {usual:+.1f})",
                )
    slowest, quickest = (max(lags, key=lambda one: one.seconds), min(lags, key=lambda one: one.seconds))
    told = [f"{one.group} after {one.frames:.1f} frames = {1000 * one.seconds:.0f} ms" for one in (quickest, slowest)]
    findings.looked_at("lag", f"states follow {arm.kind} actions: {' to '.join(dict.fromkeys(told))}")


def _pairs(keyed: Iterable[tuple[Facts, Any]]) -> list[tuple[Facts, Facts]]:
    """(first, later) of everything that has the same key as something before it."""
    first: dict[Any, Facts] = {}
    return [(first[key], one) for one, key in keyed if first.setdefault(key, one) is not one]
