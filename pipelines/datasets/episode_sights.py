"""Questions about what there is to see in a clip: how things lie, how many there are, where they are, whose arm it is.

About a moment only stills are asked; what never changes can be asked about a video as well.
"""

from collections.abc import Iterator

import numpy as np

from blm.actors.sim.tasks import TASKS
from blm.pipelines.datasets.episode_views import Ask, View
from blm.pipelines.datasets.episode_words import PICTURE_NAMES
from blm.pipelines.datasets.questions import position_words
from blm.pipelines.datasets.scene_facts import CLEARLY

ROBOT_NAMES = {
    "panda": "Franka Panda",
    "xarm6": "UFACTORY xArm",
    "xarm7": "UFACTORY xArm",
    "widowx_ai": "Trossen WidowX AI",
}
"""What a robot is called. The two xArms carry the same hand, and their arms differ in a joint that no camera shows."""
OTHER_ROBOTS = ("Universal Robots UR5e", "KUKA LBR iiwa", "Kinova Gen3")
"""Wrong options that are never right."""
THINGS: dict[str, dict[str, int]] = {
    "PushCube": {"cubes": 1, "round targets": 1},
    "PullCube": {"cubes": 1, "round targets": 1},
    "PickCube": {"cubes": 1, "balls": 1},
    "StackCube": {"cubes": 2},
    "PlaceSphere": {"balls": 1, "bins": 1},
    "LiftPegUpright": {"pegs": 1},
}
"""What stands, lies or hangs in a task's scene, beside the robot."""
NOUNS = ("cubes", "balls", "bins", "pegs", "round targets")
DIRECTIONS = (("nearer to the robot", "farther from the robot"), ("to the right", "to the left"), ("below", "above"))
"""By axis, for a negative and a positive offset."""
CLEAR_OFFSET_M = 0.03
"""Least offset that is called a direction."""
APART_M = 0.08
"""Least distance of a wrong place from the right one."""
WRONG_OPTIONS = 3
"""Wrong options of a question that has more than two."""


def sights(view: View) -> list[Ask]:
    """All such questions that a view answers, in a fixed order."""
    found: list[Ask] = []
    if not view.clip.video:
        found += [*_relations(view), *_places(view), *_pixels(view)]
    if view.clip.kind in ("still", "history", "whole"):
        found += [*_counts(view), _robot(view)]
    return found


def _relations(view: View) -> Iterator[Ask]:
    task = TASKS[view.facts.task]
    tool, thing, goal = view.facts.points_m
    pairs = [("gripper", task.object_name, tool - thing), (task.object_name, "gripper", thing - tool)]
    if task.name != "LiftPegUpright":
        pairs += [(task.object_name, task.goal_name, thing - goal), (task.goal_name, task.object_name, goal - thing)]
    for first, second, offset_m in pairs if view.sees_object else ():
        size = np.abs(offset_m)
        axis = int(size.argmax())
        if size[axis] < CLEAR_OFFSET_M or size[axis] < CLEARLY * np.delete(size, axis).max():
            continue
        answer = DIRECTIONS[axis][int(offset_m[axis] > 0)]
        wrong = tuple(words for pair in DIRECTIONS for words in pair if words != answer)
        slots = {"first": first, "second": second}
        yield Ask(category="spatial_relation", answer=answer, slots=slots, wrong=wrong)


def _counts(view: View) -> Iterator[Ask]:
    present = THINGS[view.facts.task]
    for noun in NOUNS if view.sees_object else ():
        answer = str(present.get(noun, 0))
        wrong = tuple(number for number in ("0", "1", "2", "3") if number != answer)
        yield Ask(category="counting", answer=answer, topic=noun, slots={"things": noun}, wrong=wrong)


def _robot(view: View) -> Ask:
    answer = ROBOT_NAMES[view.robot]
    wrong = tuple(name for name in dict.fromkeys([*ROBOT_NAMES.values(), *OTHER_ROBOTS]) if name != answer)
    return Ask(category="robot_identification", answer=answer, wrong=wrong)


def _named_points(view: View) -> list[tuple[str, int]]:
    """(name, index) of gripper, object and goal, as far as a picture shows them."""
    task = TASKS[view.facts.task]
    points = [("gripper", 0)]
    if view.sees_object:
        points.append((task.object_name, 1))
    if task.name != "LiftPegUpright":
        points.append((f"top of the {task.goal_name}" if task.name == "StackCube" else task.goal_name, 2))
    return points


def _places(view: View) -> Iterator[Ask]:
    places_m = view.facts.points_m
    for name, index in _named_points(view):
        others = [place for place in places_m if np.linalg.norm(place - places_m[index]) > APART_M]
        others += [places_m[index] * mirrored for mirrored in ([1, -1, 1], [-1, 1, 1], [-1, -1, 1])]
        wrong = [position_words(p) for p in others if np.linalg.norm(p - places_m[index]) > APART_M]
        answer = position_words(places_m[index])
        wrong = [words for words in dict.fromkeys(wrong) if words != answer]
        enough = tuple(wrong) if len(wrong) >= WRONG_OPTIONS else ()
        yield Ask(category="localisation", answer=answer, topic=name, slots={"first": name}, wrong=enough)


def _pixels(view: View) -> Iterator[Ask]:
    """Points and boxes in the pictures, in whole pixels from the top left corner."""
    for k, (points, box) in enumerate(zip(view.points_px, view.boxes_px, strict=True)):
        picture = PICTURE_NAMES[k] if len(view.points_px) > 1 else "only"
        if box is not None:
            name = TASKS[view.facts.task].object_name
            slots = {"first": name, "picture": picture}
            yield Ask(category="localisation_box", answer=str(list(box)), topic=f"{name} {picture}", slots=slots)
        if points is None:
            continue
        for name, index in _named_points(view):
            column, row = (round(value) for value in points[2 * index : 2 * index + 2])
            if 0 <= column < view.side_px and 0 <= row < view.side_px:
                slots = {"first": name, "picture": picture}
                answer = str([column, row])
                yield Ask(category="localisation_point", answer=answer, topic=f"{name} {picture}", slots=slots)
