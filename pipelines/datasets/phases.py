"""What a demonstration does when: its steps (reach, grasp, carry, ...) with the control steps they last.

An episode that says itself which primitives were executed (`metrics["phases"]`, pairs of a name and the first control
step) is believed. From any other the same steps are read off what was commanded and what moved: the gripper's command
marks grasps and releases, the arm's commands mark when it waits for the fingers, heights and places tell carrying from
setting down, and a cube that starts to slide tells reaching from pushing. Deterministic, a few array operations.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blm.actors.sim.episode import Episode
from blm.model.errors import UserError
from blm.pipelines.datasets.scene_facts import PEG_LYING_M, PUT_DOWN, SLID

RECORDED_NAMES = {
    "reach": "approach",
    "approach": "approach",
    "grasp": "grasp",
    "lift": "carry",
    "carry": "carry",
    "move": "carry",
    "place": "place",
    "release": "release",
    "push": "push",
    "pull": "pull",
    "rotate": "rotate",
    "turn": "rotate",
    "stand": "rotate",
    "lay": "lay",
    "retreat": "retreat",
    "withdraw": "retreat",
    "hold": "hold",
}
"""Names of executed primitives, and the steps they belong to. Any other is a wait for the fingers."""
OPEN_COMMAND = 0.5
"""Gripper commands above it open, others close."""
STILL_RAD = 0.01
"""An arm whose command has changed by less is waiting."""
AT_REST_M = 0.002
"""A tool that moves less in a control step stands still."""
SLIDES_M = 0.002
"""A cube displaced by more has been touched."""
FINGERS_LOW_M = 0.04
"""Tool height from which a cube can be pushed."""
OVER_PLACE_M, LOWERED_M, LEVEL_M = 0.02, 0.01, 0.002
"""Setting down begins when the object stays this near to where it is let go and only sinks, by at least that much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One step of a demonstration."""

    name: str
    """approach, grasp, carry, place, release, push, pull, rotate, lay, retreat or hold."""
    first: int
    """Control step with which it begins: state `first` shows what is there before it."""
    end: int
    """Control step after its last: state `end` shows what it has come to."""


def phases(episode: Episode) -> tuple[Phase, ...]:
    """The steps of an episode without gaps, from control step 0 to its last; none for an empty episode.

    UserError if the episode's own record of them makes no sense.
    """
    total = len(episode.actions)
    if total == 0:
        return ()
    recorded = episode.metrics.get("phases")
    if recorded:
        found = _recorded(episode, recorded)
    elif episode.task in SLID:
        found = _slide(episode)
    else:
        found = _by_gripper(episode)
    rest = _rest(episode)
    found = [Phase(name=p.name, first=p.first, end=min(p.end, rest)) for p in found]
    return _joined([*found, Phase(name="hold", first=rest, end=total)])


def _recorded(episode: Episode, recorded: Sequence[Sequence[object]]) -> list[Phase]:
    total = len(episode.actions)
    try:
        pairs = [(str(name), int(str(first))) for name, first in recorded]
    except (TypeError, ValueError):
        pairs = []
    starts = [first for _, first in pairs]
    if not pairs or starts != sorted(starts) or not 0 <= starts[0] <= starts[-1] <= total:
        raise UserError(
            f"{episode.cell}, seed {episode.seed}: metrics['phases'] is {recorded!r}, not pairs of a name and a first"
            f" control step in ascending order within {total} steps; collect the cell again"
        )
    starts[0] = 0
    found: list[Phase] = []
    for (name, _), first, end in zip(pairs, starts, [*starts[1:], total], strict=True):
        if first == end:
            continue
        known = RECORDED_NAMES.get(name)
        if known is None:
            known = "hold" if episode.task in SLID else ("release" if _opens(episode, first) else "grasp")
        if known == "place":
            found += _carry_and_place(episode, first, end)
        else:
            found.append(Phase(name=known, first=first, end=end))
    return found


def _slide(episode: Episode) -> list[Phase]:
    """Reach until the tool, low over the table, sets out towards the goal to meet the cube; from there push or pull."""
    total = len(episode.actions)
    tool, thing, goal = _points(episode)
    moved_m = np.linalg.norm((thing - thing[0])[:, :2], axis=1)
    if moved_m.max() < SLIDES_M:
        return [Phase(name="approach", first=0, end=total)]
    begin = int(np.argmax(moved_m >= SLIDES_M))
    along = (goal[0] - thing[0])[:2] / max(float(np.linalg.norm((goal[0] - thing[0])[:2])), 1e-6)
    onwards_m = np.diff(tool[:, :2], axis=0) @ along
    while begin > 0 and tool[begin - 1, 2] < FINGERS_LOW_M and onwards_m[begin - 1] > 0.5 * AT_REST_M:
        begin -= 1
    return [Phase(name="approach", first=0, end=begin), Phase(name=SLID[episode.task], first=begin, end=total)]


def _by_gripper(episode: Episode) -> list[Phase]:
    """Runs of one gripper command; after each change the arm first waits for the fingers."""
    is_open = episode.actions[:, -1] > OPEN_COMMAND
    total = len(is_open)
    bounds = [0, *(np.flatnonzero(np.diff(is_open)) + 1).tolist(), total]
    found: list[Phase] = []
    for i, (first, end) in enumerate(itertools.pairwise(bounds)):
        moves = first if i == 0 else _moves_again(episode, first, end)
        if is_open[first]:
            found.append(Phase(name="release", first=first, end=moves))
            returns = end < total or i == 0
            found.append(Phase(name="approach" if returns else "retreat", first=moves, end=end))
        else:
            found.append(Phase(name="grasp", first=first, end=moves))
            found += _held(episode, moves, end)
    return found


def _held(episode: Episode, first: int, end: int) -> list[Phase]:
    """What is done with a held object: carried, carried and set down, or turned (a peg may also be laid down)."""
    if episode.task in PUT_DOWN:
        return _carry_and_place(episode, first, end)
    name = "carry"
    if episode.task == "LiftPegUpright":
        lies = end < len(episode.actions) and episode.object_positions[end, 5] < PEG_LYING_M
        name = "lay" if lies else "rotate"
    return [Phase(name=name, first=first, end=end)]


def _carry_and_place(episode: Episode, first: int, end: int) -> list[Phase]:
    _, thing, _ = _points(episode)
    begin = end
    while (
        begin > first
        and np.linalg.norm((thing[begin - 1] - thing[end])[:2]) < OVER_PLACE_M
        and thing[begin - 1, 2] > thing[begin, 2] - LEVEL_M
    ):
        begin -= 1
    if thing[begin, 2] - thing[end, 2] < LOWERED_M:
        begin = end
    return [Phase(name="carry", first=first, end=begin), Phase(name="place", first=begin, end=end)]


def _points(episode: Episode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tool centre, object and goal over time, [T+1,3] each."""
    tool, thing, goal = np.moveaxis(episode.object_positions.reshape(-1, 3, 3), 1, 0)
    return tool, thing, goal


def _opens(episode: Episode, first: int) -> bool:
    return bool(episode.actions[first, -1] > OPEN_COMMAND)


def _moves_again(episode: Episode, first: int, end: int) -> int:
    """First step from `first` on with another arm command; `end` if there is none."""
    changed = np.abs(episode.actions[first:end, :-1] - episode.actions[first, :-1]).max(axis=1) > STILL_RAD
    return first + int(np.argmax(changed)) if changed.any() else end


def _rest(episode: Episode) -> int:
    """The step from which to the end nothing new is commanded and the tool stands still."""
    tool, _, _ = _points(episode)
    same = (np.abs(episode.actions - episode.actions[-1]) < STILL_RAD).all(axis=1)
    still = np.linalg.norm(np.diff(tool, axis=0), axis=1) < AT_REST_M
    rest = len(same)
    while rest > 0 and same[rest - 1] and still[rest - 1]:
        rest -= 1
    return rest


def _joined(found: Sequence[Phase]) -> tuple[Phase, ...]:
    """Without empty ones; a retreat that is not the end is part of the next approach; like neighbours are one."""
    kept = [phase for phase in found if phase.end > phase.first]
    joined: list[Phase] = []
    for i, phase in enumerate(kept):
        ends_here = all(later.name in ("hold", "retreat") for later in kept[i + 1 :])
        name = "approach" if phase.name == "retreat" and not ends_here else phase.name
        if joined and joined[-1].name == name:
            joined[-1] = Phase(name=name, first=joined[-1].first, end=phase.end)
        else:
            joined.append(Phase(name=name, first=phase.first, end=phase.end))
    return tuple(joined)
