"""How questions about episodes are put: many phrasings each, some of them kept for testing.

Steps are quoted in angle brackets, as ShareRobot quotes them. Left, right, near and far are told to be the robot's,
since the front camera sees them mirrored.
"""

import numpy as np

from blm.actors.sim.tasks import Task
from blm.pipelines.datasets.phrasings import Phrasing, ways

EPISODE_PHRASINGS: dict[str, Phrasing] = {
    "planning": Phrasing(
        train=ways(
            "The task is to {task}. What is the [immediate |]next step?",
            "[What|Which step] should the robot do next in order to {task}?",
            "Task: {task}. [Which step comes|What is the step that comes] next?",
            "In order to {task}, what must be done [first|right now]?",
            "You are to {task}. What do you do now?",
            "Tell me the next step if the task is to {task}.",
        ),
        held_out=(
            "The robot wants to {task}. What does it have to do now?",
            "What would you begin with at this moment so as to {task}?",
        ),
    ),
    "planning_with_context": Phrasing(
        train=ways(
            "The task is to {task}. Done so far: {context}. What is the [immediate |]next step?",
            "In order to {task}, the robot has done {context}. What should it do [next|now]?",
            "Task: {task}. Steps behind the robot: {context}. Which step comes next?",
            "{context} is done; the task is to {task}. What is next?",
            "So far: {context}. The whole task: {task}. Tell me the next step.",
            "You are to {task} and have done {context}. What do you do now?",
        ),
        held_out=(
            "The robot wants to {task} and has finished {context}. What does it have to do now?",
            "With {context} behind it, how does the robot go on in order to {task}?",
        ),
    ),
    "planning_remaining_steps": Phrasing(
        train=ways(
            "The task is to {task}. Which steps [remain|are left]?",
            "List the steps that the robot still has to take in order to {task}.",
            "Task: {task}. What is left to be done, step by step?",
            "In order to {task}, which steps are still to come?",
            "[Give|Tell me] all steps from now on if the task is to {task}.",
            "You are to {task}. List what you still have to do.",
        ),
        held_out=(
            "The robot wants to {task}. Name everything that it has yet to do, in order.",
            "Until the robot has managed to {task}, what will it do one after the other?",
        ),
    ),
    "future_prediction": Phrasing(
        train=ways(
            "After <{step}>, what will most likely happen next?",
            "<{step}> has just been finished. What will the robot probably do [then|next]?",
            "What is the most probable event after <{step}>?",
            "The robot has done <{step}>. What comes next?",
            "What [usually follows|follows] <{step}> here?",
            "Once <{step}> is done, what will the robot do?",
        ),
        held_out=(
            "The robot is through with <{step}>. What can be expected to follow?",
            "Behind the robot lies <{step}>; guess its next action.",
        ),
    ),
    "generative_affordance": Phrasing(
        train=ways(
            "What can the robot do right now to get on?",
            "Which useful action is possible at this moment?",
            "What action does this situation allow the robot to take at once?",
            "What [can be done|is possible] here and now?",
            "Which action can the robot take [now|at this moment]?",
            "What is the robot able to do at once?",
            "Tell me an action that the robot can take now.",
        ),
        held_out=(
            "Name an action that would now make sense for the robot.",
            "As things stand, what could usefully be done?",
        ),
    ),
    "discriminative_affordance": Phrasing(
        train=ways(
            "Can the robot <{step}> right now, with nothing else to do first?",
            "Is it possible at this moment to <{step}> without another step before?",
            "Could <{step}> be the very next action?",
            "Can <{step}> be done at once?",
            "Is <{step}> something that the robot can do [now|right now]?",
            "Is the robot able to <{step}> without doing anything else first?",
            "May <{step}> come next?",
        ),
        held_out=(
            "Is everything ready for the robot to <{step}> at once?",
            "Do things stand so that <{step}> would work immediately?",
        ),
    ),
    "past_description": Phrasing(
        train=ways(
            "What did the robot just do?",
            "Which step has the robot just [finished|done]?",
            "Describe the robot's last action.",
            "What has [just happened|just been done]?",
            "Tell me what the robot did.",
            "What [was|is] the last step?",
            "Which action do you see the robot take?",
        ),
        held_out=(
            "Which action has just come to its end?",
            "Put into words what the robot was busy with.",
        ),
    ),
    "success": Phrasing(
        train=ways(
            "Has the robot managed to <{step}>?",
            "Was <{step}> carried out successfully?",
            "Did the robot succeed in this: <{step}>?",
            "Has <{step}> been [done|finished]?",
            "Did the robot do this: <{step}>?",
            "Did <{step}> [work|succeed]?",
            "Has the robot [done|finished] <{step}>?",
        ),
        held_out=(
            "Is <{step}> accomplished?",
            "Can <{step}> be ticked off as achieved?",
        ),
    ),
    "spatial_relation": Phrasing(
        train=ways(
            "As the robot sees it, where is the {first} relative to the {second}?",
            "Seen from the robot's base, where is the {first} with respect to the {second}?",
            "From the robot's point of view, how does the {first} lie relative to the {second}?",
            "From the robot, where is the {first} [relative to|as seen from] the {second}?",
            "For the robot, on which side of the {second} is the {first}?",
            "Tell me where the robot sees the {first} relative to the {second}.",
        ),
        held_out=(
            "Take the robot's view: in which direction from the {second} is the {first}?",
            "If you stood at the robot's base, how would you place the {first} against the {second}?",
        ),
    ),
    "counting": Phrasing(
        train=ways(
            "How many {things} are [in the scene|there|here]?",
            "Count the {things}.",
            "What is the number of {things} here?",
            "How many {things} [do you see|can be seen]?",
            "[Tell me|Give] the number of {things}.",
            "The number of {things} in the scene is?",
        ),
        held_out=(
            "Say how many {things} there are.",
            "To what figure do you come when you count {things}?",
        ),
    ),
    "localisation": Phrasing(
        train=(
            "Where is the {first}? Answer in position words.",
            "Locate the {first} in position words.",
            "Give the position words of the {first}.",
            "In position words, at what place is the {first}?",
            "Say in position words where you see the {first}.",
        ),
        held_out=("Which position words tell where the {first} is?",),
    ),
    "localisation_point": Phrasing(
        train=(
            "Point at the {first} in the {picture} picture: give its pixel as [column, row].",
            "At which pixel [column, row] of the {picture} picture is the {first}?",
            "Give the pixel [column, row] of the {first} in the {picture} picture.",
            "Where in the {picture} picture is the {first}? Answer [column, row].",
            "The {picture} picture shows the {first} at which pixel, as [column, row]?",
        ),
        held_out=("Mark the {first} in the {picture} picture by its pixel [column, row].",),
    ),
    "localisation_box": Phrasing(
        train=(
            "Give the box around the {first} in the {picture} picture as [left, top, right, bottom].",
            "Which box [left, top, right, bottom] holds what can be seen of the {first} in the {picture} picture?",
            "Frame the {first} in the {picture} picture: [left, top, right, bottom].",
            "Where in the {picture} picture is the {first}? Answer with its box [left, top, right, bottom].",
            "What are the edges [left, top, right, bottom] of the {first} in the {picture} picture?",
        ),
        held_out=("Draw a box [left, top, right, bottom] round the {first} in the {picture} picture.",),
    ),
    "robot_identification": Phrasing(
        train=ways(
            "Which robot [is this|do you see]?",
            "What robot [arm |]can be seen?",
            "Identify the robot.",
            "What is the robot called?",
            "[Tell me|Give] the name of the robot.",
            "What kind of robot is this?",
        ),
        held_out=(
            "Name the robot in the scene.",
            "By what name does this arm go?",
        ),
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
