"""Which moments of a demonstration are shown: still pictures, and videos of one step, of all steps so far, of a step
cut short, of the whole, and of the same demonstration gone wrong.

A clip says what is to be drawn and what is known before anything is drawn. Chosen at random, from the generator given
alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blm.actors.mishaps import MISHAPS
from blm.pipelines.datasets.phases import Phase
from blm.pipelines.datasets.scene_facts import GRASPED
from blm.pipelines.datasets.steps import NAMED, PLANS

KINDS = {"still": 0.48, "step": 0.22, "history": 0.14, "partial": 0.05, "whole": 0.05, "mishap": 0.06}
"""How often each kind of clip is drawn: one moment; a step from its beginning to its end; everything up to the end of
a step; the beginning of a step; everything; everything, with a fault."""
LEAST_STEPS = 8
"""A video of a step shorter than that begins before it: fingers close in a fifth of a second."""
FINAL_SHARE = 0.15
"""Share of the stills that show the very end."""
PARTIAL = (0.25, 0.5)
"""How much of a step a clip shows that is cut short."""
FAULT, FAULT_SLIDING = (0.3, 0.6), (0.15, 0.35)
"""How far a step is when something is dropped or the arm stops. A cube slides on, and half way is nearly there."""
FAILING: dict[str, frozenset[str]] = {
    "open": frozenset({"grasp", "carry", "rotate"}),
    "missed": frozenset({"grasp", "push", "pull", "rotate"}),
    "dropped": frozenset({"carry", "rotate"}),
    "stopped": frozenset({"carry", "rotate", "push", "pull"}),
}
"""Steps that a mishap spoils."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """Pictures to be drawn of an episode, and what surrounds them."""

    kind: str
    """Key of `KINDS`."""
    start: int
    """Control step of the first picture."""
    end: int
    """Control step of the last; the same for a still."""
    done: tuple[str, ...] = ()
    """Steps completed by then, as far as the episode shows them."""
    shown: str | None = None
    """The step that a video is about: completed in it, or begun and cut short."""
    ahead: tuple[str, ...] = ()
    """Steps that follow from then on, the one that is under way first."""
    mishap: str | None = None
    """What goes wrong, if anything."""
    spoiled: tuple[str, ...] = ()
    """Steps that fail therefore."""
    fault_step: int = 0
    """Control step of the fault."""
    fault_side: float = 1.0
    """Its direction."""

    @property
    def video(self) -> bool:
        """Whether several moments are shown."""
        return self.kind != "still"

    def moments(self, frames: int) -> tuple[int, ...]:
        """Control steps that are drawn, evenly spread, at most `frames`."""
        n = min(frames, self.end - self.start + 1) if self.video else 1
        return tuple(int(step) for step in np.linspace(self.start, self.end, n).round()) if n > 1 else (self.end,)


def named_steps(found: Sequence[Phase]) -> list[Phase]:
    """The phases that a person would name."""
    return [phase for phase in found if phase.name in NAMED]


def choose_clip(task: str, found: Sequence[Phase], rng: np.random.Generator) -> Clip | None:
    """A random clip of an episode with these phases; None if it has no step worth a name, and for a mishap that cannot
    happen to it. Of an episode that does not follow the task's plan only stills are shown, and no step is named.
    """
    steps = named_steps(found)
    if not steps:
        return None
    last = found[-1].end
    if tuple(step.name for step in steps) != PLANS[task][-len(steps) :]:  # tried twice: nobody could foresee that
        moment = int(rng.integers(last + 1))
        return Clip(kind="still", start=moment, end=moment)
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    i = int(rng.integers(len(steps)))
    names = tuple(step.name for step in steps)
    if kind == "still":
        return _still(steps, names, last, i, rng)
    if kind == "whole":
        return Clip(kind=kind, start=0, end=last, done=names, shown=names[-1])
    if kind == "mishap":
        return _mishap(task, steps, last, rng)
    step = steps[i]
    if kind == "partial":
        end = step.first + max(2, round(float(rng.uniform(*PARTIAL)) * (step.end - step.first)))
        start = max(0, min(step.first, end - LEAST_STEPS))
        return Clip(kind=kind, start=start, end=min(end, step.end), done=names[:i], shown=step.name, ahead=names[i:])
    start = 0 if kind == "history" else max(0, min(step.first, step.end - LEAST_STEPS))
    return Clip(kind=kind, start=start, end=step.end, done=names[: i + 1], shown=step.name, ahead=names[i + 1 :])


def _still(steps: list[Phase], names: tuple[str, ...], last: int, i: int, rng: np.random.Generator) -> Clip:
    """The end, the beginning of a step, or any moment in its first two thirds."""
    if rng.random() < FINAL_SHARE:
        return Clip(kind="still", start=last, end=last, done=names)
    step = steps[i]
    moment = step.first if rng.random() < 0.5 else step.first + int(rng.uniform(0.0, 0.67) * (step.end - step.first))
    return Clip(kind="still", start=moment, end=moment, done=names[:i], ahead=names[i:])


def _mishap(task: str, steps: list[Phase], last: int, rng: np.random.Generator) -> Clip | None:
    """One that can happen to this episode: what is never grasped cannot be dropped."""
    present = {step.name for step in steps}
    grasps = "grasp" in present or task not in GRASPED
    able = [m for m in MISHAPS if FAILING[m] & present and (grasps or m not in ("open", "missed"))]
    if not able:
        return None
    mishap = str(rng.choice(able))
    moving = [step for step in steps if step.name in FAILING["stopped"]]
    middle = moving[0] if moving else steps[-1]
    fault = middle.first + int(
        rng.uniform(*(FAULT if task in GRASPED else FAULT_SLIDING)) * (middle.end - middle.first)
    )
    end = min(last, fault + 2 * LEAST_STEPS) if mishap in ("dropped", "stopped") else last
    spoiled = tuple(dict.fromkeys(step.name for step in steps if step.name in FAILING[mishap]))
    return Clip(
        kind="mishap",
        start=0,
        end=end,
        shown=spoiled[0],
        mishap=mishap,
        spoiled=spoiled,
        fault_step=fault,
        fault_side=float(rng.choice([-1.0, 1.0])),
    )
