"""What can be asked about an episode of anybody's robot: as much as a LeRobot dataset's columns tell for certain.

Any dataset has tasks in words and frames in order: which instruction is followed, and which of two pictures is the
later one. A state whose entries are called gripper adds whether it moved, and, if the name says what large values
mean, whether it is open. A dataset of this project also knows where things are: `scene_asks` puts that to the
generator of our own episode questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from blm.actors.sim.tasks import TASKS
from blm.pipelines.datasets.clips import Clip
from blm.pipelines.datasets.episode_questions import asks
from blm.pipelines.datasets.episode_views import Ask, View
from blm.pipelines.datasets.episode_words import with_options, wording
from blm.pipelines.datasets.scene_facts import SceneFacts

LEROBOT_PHRASINGS: dict[str, tuple[str, ...]] = {
    "instruction": (
        "What is the robot told to do?",
        "Which instruction does the robot follow here?",
        "Say in a few words what the robot's task is.",
    ),
    "which_instruction": (
        "Which instruction fits what the robot does?",
        "What is the robot told to do?",
        "Which of these tasks is the robot working on?",
    ),
    "order": (
        "Both pictures are of one attempt at a task. Which of them was taken later?",
        "Of these two moments of one episode, which comes later?",
        "Which of the two pictures shows the later moment of the robot's work?",
    ),
    "gripper_moves": (
        "Does the gripper open or close between the first picture and the second?",
        "Is the gripper opened or closed from the first picture to the second?",
        "From one picture to the other, does the opening of the gripper change?",
    ),
    "gripper": (
        "Is the gripper open or closed?",
        "Is the robot's hand open or closed?",
        "Open or closed: the gripper?",
    ),
}
"""By category."""
APART = 0.25
"""Least distance of two moments that are put in order, as a share of the episode."""
STEPS_APART = 8
"""And in frames."""
MOVED, STILL = 0.5, 0.05
"""Change of a gripper's opening, as a share of its range, from which it moved, and up to which it did not."""
CLOSED, OPEN = 0.15, 0.85
"""Shares of the range below which a gripper is closed, and above which it is open."""
OPENING_WORDS = ("open", "width", "opening")
"""Names of state entries that say that large values mean open."""
MOST_WORDS = 40
"""Longer instructions are no answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeFacts:
    """What a dataset tells about an episode."""

    task: str
    """The instruction; empty if there is none."""
    other_tasks: tuple[str, ...]
    """Different instructions of the same dataset."""
    length: int
    """Frames."""
    state: npt.NDArray[np.float64] | None = None
    """[N, D] if there is one."""
    gripper: npt.NDArray[np.float64] | None = None
    """[N] opening of the gripper in the dataset's range, which is 0 to 1 here; None if no entry of the state is it."""
    opening: bool = False
    """Whether 1 is known to be open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A question in words, and which frames it is asked about."""

    category: str
    """What is asked."""
    text: str
    """The question."""
    answer: str
    """The right answer."""
    moments: tuple[int, ...] = ()
    """Frames that are shown as pictures; none for a video of the whole episode."""
    choice: bool = False
    """Whether it is multiple choice."""
    facts: dict[str, str] = field(default_factory=dict)
    """What else is worth keeping."""


def episode_questions(facts: EpisodeFacts, n: int, rng: np.random.Generator) -> list[Asked]:
    """At most `n` questions of different categories, drawn by `rng`."""
    makers = [_instruction, _which_instruction, _order, _gripper_moves, _gripper]
    found: list[Asked] = []
    for i in rng.permutation(len(makers)):
        asked = makers[i](facts, rng) if len(found) < n else None
        if asked is not None:
            found.append(asked)
    return found


def _words(category: str, rng: np.random.Generator) -> str:
    return str(rng.choice(LEROBOT_PHRASINGS[category]))


def _tellable(task: str) -> bool:
    return 0 < len(task.split()) <= MOST_WORDS


def _instruction(facts: EpisodeFacts, rng: np.random.Generator) -> Asked | None:
    if not _tellable(facts.task):
        return None
    return Asked(category="instruction", text=_words("instruction", rng), answer=facts.task)


def _which_instruction(facts: EpisodeFacts, rng: np.random.Generator) -> Asked | None:
    others = [task for task in facts.other_tasks if _tellable(task)]
    if not _tellable(facts.task) or not others:
        return None
    options = [others[int(i)] for i in rng.permutation(len(others))[:3]]
    place = int(rng.integers(len(options) + 1))
    options.insert(place, facts.task)
    text = with_options(_words("which_instruction", rng), tuple(options))
    letter = chr(ord("A") + place)
    return Asked(category="which_instruction", text=text, answer=letter, choice=True, facts={"said": facts.task})


def _two_moments(facts: EpisodeFacts, rng: np.random.Generator) -> tuple[int, int] | None:
    """An earlier and a later frame, clearly apart in time; None for an episode that is too short."""
    gap = max(STEPS_APART, round(APART * facts.length))
    if facts.length <= gap:
        return None
    first = int(rng.integers(facts.length - gap))
    return first, int(rng.integers(first + gap, facts.length))


def _order(facts: EpisodeFacts, rng: np.random.Generator) -> Asked | None:
    moments = _two_moments(facts, rng)
    if moments is None or not _differ(facts, *moments):
        return None
    swapped = bool(rng.integers(2))
    shown = moments[::-1] if swapped else moments
    return Asked(
        category="order", text=_words("order", rng), answer="the first" if swapped else "the second", moments=shown
    )


def _differ(facts: EpisodeFacts, first: int, second: int) -> bool:
    """Whether the robot stands differently; without a state, nobody knows that it does not."""
    if facts.state is None or not facts.state.size:
        return True
    spread = np.ptp(facts.state, axis=0)
    moved = np.abs(facts.state[first] - facts.state[second])[spread > 0] / spread[spread > 0]
    return bool(moved.size and moved.max() > APART)


def _gripper_moves(facts: EpisodeFacts, rng: np.random.Generator) -> Asked | None:
    moments = _two_moments(facts, rng)
    if moments is None or facts.gripper is None:
        return None
    between = facts.gripper[moments[0] : moments[1] + 1]
    change = abs(float(between[-1] - between[0]))
    if change < MOVED and float(np.ptp(between)) > STILL:  # a little, or there and back
        return None
    answer = "yes" if change >= MOVED else "no"
    return Asked(category="gripper_moves", text=_words("gripper_moves", rng), answer=answer, moments=moments)


def _gripper(facts: EpisodeFacts, rng: np.random.Generator) -> Asked | None:
    if facts.gripper is None or not facts.opening:
        return None
    moment = int(rng.integers(facts.length))
    value = float(facts.gripper[moment])
    if CLOSED < value < OPEN:
        return None
    answer = "open" if value >= OPEN else "closed"
    return Asked(category="gripper", text=_words("gripper", rng), answer=answer, moments=(moment,))


def scene_asks(robot: str, scene: SceneFacts, moment: int, n: int, rng: np.random.Generator) -> list[Asked]:
    """At most `n` questions of our own generator about one frame of a dataset of this project.

    Which steps lie ahead and what the picture hides is not among its columns: nothing that depends on it is asked.
    """
    found = asks(View(robot=robot, clip=Clip(kind="still", start=moment, end=moment), facts=scene))
    by_category: dict[str, list[Ask]] = {}
    for ask in found:
        by_category.setdefault(ask.category, []).append(ask)
    chosen: list[Asked] = []
    for i in rng.permutation(len(by_category))[:n]:
        pool = list(by_category.values())[int(i)]
        chosen.append(_in_words(pool[int(rng.integers(len(pool)))], scene, moment, rng))
    return chosen


def _in_words(ask: Ask, scene: SceneFacts, moment: int, rng: np.random.Generator) -> Asked:
    text = wording(ask.category, TASKS[scene.task], ask.slots, rng, held_out=False)
    return Asked(category=ask.category, text=text, answer=ask.answer, moments=(moment,))


def unit_range(values: npt.NDArray[np.float64], ranges: Sequence[float] | None) -> npt.NDArray[np.float64] | None:
    """Values in their range as 0 to 1; None if there is no range to speak of. ranges: smallest and largest value of the
    whole dataset, or None to take those of the episode.
    """
    low, high = (float(values.min()), float(values.max())) if ranges is None else ranges
    if not np.isfinite(values).all() or not np.isfinite([low, high]).all() or high - low < 1e-6:
        return None
    return np.clip((values - low) / (high - low), 0.0, 1.0)
