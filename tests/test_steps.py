"""What can be done at once, and what has been achieved, judged from what the simulator knows."""

import pytest
from small_views import HELD, PLACED, facts

from blm.pipelines.datasets.scene_facts import SceneFacts
from blm.pipelines.datasets.steps import achieved, possible


@pytest.mark.parametrize(
    ("scene", "able"),
    [
        (facts(), {"approach": True, "grasp": False, "carry": False, "place": False, "release": False}),
        (facts(tool=(0.0, -0.05, 0.021)), {"approach": None, "grasp": True, "carry": False, "release": False}),
        (facts(**HELD), {"approach": False, "grasp": False, "carry": True, "place": None, "release": None}),
        (facts(**PLACED), {"approach": False, "grasp": False, "carry": None, "release": True}),
    ],
)
def test_what_can_be_done_at_once(scene: SceneFacts, able: dict[str, bool | None]) -> None:
    assert {step: possible(step, scene) for step in able} == able


def test_what_has_been_achieved() -> None:
    assert achieved("approach", facts()) is False
    assert achieved("approach", facts(tool=(0.0, -0.05, 0.021))) is True
    assert (achieved("grasp", facts()), achieved("grasp", facts(**HELD))) == (False, True)
    assert (achieved("carry", facts(**HELD)), achieved("place", facts(**HELD))) == (False, False)
    over = facts(tool=(0.05, 0.1, 0.1), thing=(0.05, 0.1, 0.1), gripper=0.5)
    assert (achieved("carry", over), achieved("place", over)) == (True, None)
    assert (achieved("place", facts(**PLACED)), achieved("release", facts(**PLACED))) == (True, False)
    left = facts(tool=(0.05, 0.1, 0.13), thing=(0.05, 0.1, 0.06))
    assert achieved("release", left) is True
