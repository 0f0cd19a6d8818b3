"""Clips of episodes once they are drawn, and the questions they answer, before they are put in words."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from blm.pipelines.datasets.clips import Clip
from blm.pipelines.datasets.scene_facts import SceneFacts

SHAREROBOT = (
    "discriminative_affordance_positive",
    "discriminative_affordance_negative",
    "future_prediction",
    "generative_affordance",
    "past_description",
    "planning_remaining_steps",
    "planning",
    "planning_with_context",
    "success_positive",
    "success_negative",
)
EPISODE_CATEGORIES = (
    *SHAREROBOT,
    "spatial_relation",
    "counting",
    "localisation",
    "localisation_point",
    "localisation_box",
    "robot_identification",
)
"""All categories of questions about episodes."""
YES_NO = {"positive": "yes", "negative": "no"}


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A drawn clip: what it shows, and what the simulator knows about its last picture."""

    robot: str
    """Key of `blm.model.embodiments.EMBODIMENTS`."""
    clip: Clip
    """What is shown."""
    facts: SceneFacts
    """The last moment."""
    points_px: tuple[tuple[float, ...] | None, ...] = ()
    """For every picture of the last moment: column and row of gripper, object and goal, 6 numbers; None for a picture
    from a camera that moves."""
    boxes_px: tuple[tuple[int, ...] | None, ...] = ()
    """Box round what the picture shows of the object, 4 numbers; None where it shows too little."""
    side_px: int = 0
    """Width and height of a picture."""

    @property
    def sees_object(self) -> bool:
        """Whether the object can be seen in one of the last moment's pictures."""
        return any(box is not None for box in self.boxes_px)

    def to_json(self) -> str:
        """As text, for a column of a part."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "View":
        """The view that `to_json` wrote."""
        values: dict[str, Any] = _tuples(json.loads(text))
        return View(**values | {"clip": Clip(**values["clip"]), "facts": SceneFacts(**values["facts"])})


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were written from."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {name: _tuples(item) for name, item in value.items()} if isinstance(value, dict) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A question that a view answers, before it is put in words."""

    category: str
    """One of `EPISODE_CATEGORIES`."""
    answer: str
    """The right answer in words."""
    topic: str = ""
    """What is asked about, where a category asks about several things: answers balance within a topic."""
    slots: dict[str, str] = field(default_factory=dict)
    """What goes into the phrasing."""
    wrong: tuple[str, ...] = ()
    """Wrong options, the most telling ones first; none if it cannot be asked with options."""
