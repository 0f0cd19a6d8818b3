"""Composed moments of tasks, for questions about episodes."""

from blm.pipelines.datasets.clips import Clip
from blm.pipelines.datasets.episode_views import Ask, View
from blm.pipelines.datasets.scene_facts import SceneFacts
from blm.pipelines.datasets.steps import PLANS


def facts(
    task="StackCube",
    tool=(-0.1, 0.1, 0.15),
    thing=(0.0, -0.05, 0.02),
    goal=(0.05, 0.1, 0.04),
    gripper=1.0,
    success=False,
) -> SceneFacts:
    return SceneFacts(task=task, object_positions=(*tool, *thing, *goal), gripper=gripper, success=success)


def view(scene: SceneFacts, clip: Clip, robot: str = "panda") -> View:
    points = tuple(float(value) for value in (10, 11, 20, 21, 30, 31))
    return View(
        robot=robot, clip=clip, facts=scene, points_px=(points, points), boxes_px=((18, 19, 23, 24), None), side_px=84
    )


def still(task: str, at: int) -> Clip:
    """A still of a task with so many steps behind it."""
    return Clip(kind="still", start=5, end=5, done=PLANS[task][:at], ahead=PLANS[task][at:])


def by_category(found: list[Ask]) -> dict[str, list[Ask]]:
    grouped: dict[str, list[Ask]] = {}
    for ask in found:
        grouped.setdefault(ask.category, []).append(ask)
    return grouped


HELD = {"tool": (0.0, -0.05, 0.1), "thing": (0.0, -0.05, 0.1), "gripper": 0.5}
PLACED = {"tool": (0.05, 0.1, 0.06), "thing": (0.05, 0.1, 0.06), "gripper": 0.5}
