"""How questions about episodes are put: several phrasings each, some of them kept for testing.

Steps are quoted in angle brackets, as ShareRobot quotes them. Left, right, near and far are told to be the robot's,
since the front camera sees them mirrored.
"""

import numpy as np

from blm.actors.sim.tasks import Task
from blm.pipelines.datasets.questions import Phrasing

EPISODE_PHRASINGS: dict[str, Phrasing] = {
    "planning": Phrasing(
        train=(
            "The task is to {task}. What is the immediate next step?",
            "What should the robot do next in order to {task}?",
            "Task: {task}. Which step comes next?",
        ),
        held_out=("The robot wants to {task}. What does it have to do now?",),
    ),
    "planning_with_context": Phrasing(
        train=(
            "The task is to {task}. Done so far: {context}. What is the immediate next step?",
            "In order to {task}, the robot has done {context}. What should it do next?",
            "Task: {task}. Steps behind the robot: {context}. Which step comes next?",
        ),
        held_out=("The robot wants to {task} and has finished {context}. What does it have to do now?",),
    ),
    "planning_remaining_steps": Phrasing(
        train=(
            "The task is to {task}. Which steps remain?",
            "List the steps that the robot still has to take in order to {task}.",
            "Task: {task}. What is left to be done, step by step?",
        ),
        held_out=("The robot wants to {task}. Name everything that it has yet to do, in order.",),
    ),
    "future_prediction": Phrasing(
        train=(
            "After <{step}>, what will most likely happen next?",
            "<{step}> has just been finished. What will the robot probably do then?",
            "What is the most probable event after <{step}>?",
        ),
        held_out=("The robot is through with <{step}>. What can be expected to follow?",),
    ),
    "generative_affordance": Phrasing(
        train=(
            "What can the robot do right now to get on?",
            "Which useful action is possible at this moment?",
            "What action does this situation allow the robot to take at once?",
        ),
        held_out=("Name an action that would now make sense for the robot.",),
    ),
    "discriminative_affordance": Phrasing(
        train=(
            "Can the robot <{step}> right now, with nothing else to do first?",
            "Is it possible at this moment to <{step}> without another step before?",
            "Could <{step}> be the very next action?",
        ),
        held_out=("Is everything ready for the robot to <{step}> at once?",),
    ),
    "past_description": Phrasing(
        train=(
            "What did the robot just do?",
            "Which step has the robot just finished?",
            "Describe the robot's last action.",
        ),
        held_out=("Which action has just come to its end?",),
    ),
    "success": Phrasing(
        train=(
            "Has the robot managed to <{step}>?",
            "Was <{step}> carried out successfully?",
            "Did the robot succeed in this: <{step}>?",
        ),
        held_out=("Is <{step}> accomplished?",),
    ),
    "spatial_relation": Phrasing(
        train=(
            "As the robot sees it, where is the {first} relative to the {second}?",
            "Seen from the robot's base, where is the {first} with respect to the {second}?",
            "From the robot's point of view, how does the {first} lie relative to the {second}?",
        ),
        held_out=("Take the robot's view: in which direction from the {second} is the {first}?",),
    ),
    "counting": Phrasing(
        train=(
            "How many {things} are in the scene?",
            "Count the {things}.",
            "What is the number of {things} here?",
        ),
        held_out=("Say how many {things} there are.",),
    ),
    "localisation": Phrasing(
        train=(
            "Where is the {first}? Answer in position words.",
            "Locate the {first} in position words.",
            "Give the position words of the {first}.",
        ),
        held_out=("Which position words tell where the {first} is?",),
    ),
    "localisation_point": Phrasing(
        train=(
            "Point at the {first} in the {picture} picture: give its pixel as [column, row].",
            "At which pixel [column, row] of the {picture} picture is the {first}?",
            "Give the pixel [column, row] of the {first} in the {picture} picture.",
        ),
        held_out=("Mark the {first} in the {picture} picture by its pixel [column, row].",),
    ),
    "localisation_box": Phrasing(
        train=(
            "Give the box around the {first} in the {picture} picture as [left, top, right, bottom].",
            "Which box [left, top, right, bottom] holds what can be seen of the {first} in the {picture} picture?",
            "Frame the {first} in the {picture} picture: [left, top, right, bottom].",
        ),
        held_out=("Draw a box [left, top, right, bottom] round the {first} in the {picture} picture.",),
    ),
    "robot_identification": Phrasing(
        train=("Which robot is this?", "What robot arm can be seen?", "Identify the robot."),
        held_out=("Name the robot in the scene.",),
    ),
}
"""By category; the two halves of yes-or-no categories share their words, or the words would tell the answer."""
CHOICE_PROMPT = "Answer with the option's letter from the given choices directly."
"""Ends every multiple-choice question, as in the benchmarks of that kind."""
PICTURE_NAMES = ("first", "second", "third", "fourth", "fifth", "sixth")


def shared_words(category: str) -> str:
    """The key of a category in `EPISODE_PHRASINGS`."""
    return category.removesuffix("_positive").removesuffix("_negative")


def wording(category: str, task: Task, slots: dict[str, str], rng: np.random.Generator, *, held_out: bool) -> str:
    """One phrasing of a question. The task, where it is mentioned, is put in one of its own phrasings."""
    phrasing = EPISODE_PHRASINGS[shared_words(category)]
    text = str(rng.choice(phrasing.held_out if held_out else phrasing.train))
    instruction = str(rng.choice(task.held_out if held_out else task.instructions))
    filled = {name: instruction if value == "{task}" else value for name, value in slots.items()}
    return text.format(task=instruction, **filled)


def with_options(text: str, options: tuple[str, ...]) -> str:
    """A multiple-choice question, options lettered from A."""
    lines = [f"({chr(ord('A') + i)}) {option}" for i, option in enumerate(options)]
    return "\n".join([text, *lines, CHOICE_PROMPT])
