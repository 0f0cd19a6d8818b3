"""Every question that a clip of an episode answers: ShareRobot's ten categories, and what there is to see.

Answers come from simulator truth and are right for the pictures and the question alone: where a still cannot tell
which step comes next, nothing is asked. Negative answers have three sources: what is not possible yet or any more, and
what the scene has no object for (affordance); steps and tasks shown before they are finished; and executions with a
fault, which the simulator has found to fail (success).
"""

from collections.abc import Iterator

from blm.actors.sim.tasks import TASKS
from blm.pipelines.datasets.episode_sights import sights
from blm.pipelines.datasets.episode_views import YES_NO, Ask, View
from blm.pipelines.datasets.scene_facts import LIKE_TASKS, done, holding, tells_task
from blm.pipelines.datasets.steps import PLANS, achieved, listed, possible, shows_next, step_words


def asks(view: View) -> list[Ask]:
    """All questions that a view answers, in a fixed order."""
    found = [*_affordances(view), *_success(view), *_planning(view), *_past_and_future(view)]
    return [*found, *sights(view)]


def _yes_no(category: str, answer: bool, topic: str, step: str) -> Ask:
    half = "positive" if answer else "negative"
    return Ask(
        category=f"{category}_{half}",
        answer=YES_NO[half],
        topic=topic,
        slots={"step": step},
        wrong=(YES_NO["negative" if answer else "positive"],),
    )


# ------------------------------------------------------------------------------------------------ what can be done


def _affordances(view: View) -> Iterator[Ask]:
    """Stills only: what can be done at once. A scene without blue balls allows nothing to be done with one."""
    task, facts = view.facts.task, view.facts
    if view.clip.video or not _clear_task(view):
        return
    for step in PLANS[task]:
        able = possible(step, facts)
        if able is not None:
            words = step_words(task, step)
            yield _yes_no("discriminative_affordance", able, words, words)
    here = {TASKS[task].object_name, TASKS[task].goal_name}
    for other, plan in PLANS.items():
        if TASKS[other].object_name not in here:
            for step in plan:
                words = step_words(other, step)
                yield _yes_no("discriminative_affordance", False, words, words)
    following = view.clip.ahead[:1]
    if following and shows_next(following[0], facts):
        barred = ("release", "place") if holding(facts) else ()
        yield _which_step("generative_affordance", task, following[0], barred=barred)


def _clear_task(view: View) -> bool:
    """Whether nobody could take the scene for that of a like task."""
    return view.facts.task not in LIKE_TASKS or tells_task(view.facts)


# -------------------------------------------------------------------------------------------------- did it succeed


def _success(view: View) -> Iterator[Ask]:
    """Of the step that a video is about, and of the task as a whole."""
    task, facts, clip = view.facts.task, view.facts, view.clip
    whole = done(facts)
    if whole is not None and clip.kind in ("still", "history", "whole", "mishap"):
        yield _yes_no("success", whole, f"task {task}", "{task}")
    steps = clip.spoiled if clip.mishap else (() if clip.shown is None else (clip.shown,))
    for step in steps if clip.kind in ("step", "partial", "mishap") else ():
        reached = achieved(step, facts)
        if reached is not None and reached == (clip.kind == "step"):
            words = step_words(task, step)
            yield _yes_no("success", reached, words, words)


# ------------------------------------------------------------------------------------------------------- the plan


def _planning(view: View) -> Iterator[Ask]:
    """What comes next and what remains, from stills that tell and from videos that end with a step."""
    task, clip = view.facts.task, view.clip
    if not clip.ahead or clip.kind not in ("still", "step", "history"):
        return
    if clip.kind == "still" and not shows_next(clip.ahead[0], view.facts):
        return
    yield _which_step("planning", task, clip.ahead[0])
    yield Ask(
        category="planning_remaining_steps",
        answer=listed(task, clip.ahead),
        wrong=tuple(listed(task, other) for other in _other_plans(task, clip.ahead)),
    )
    if clip.done:
        context = {"context": listed(task, clip.done)}
        yield _which_step("planning_with_context", task, clip.ahead[0], slots=context)


def _past_and_future(view: View) -> Iterator[Ask]:
    task, clip = view.facts.task, view.clip
    if clip.kind not in ("step", "history") or clip.shown is None:
        return
    if clip.kind == "step":
        yield _which_step("past_description", task, clip.shown)
    if clip.ahead:
        words = step_words(task, clip.shown)
        yield _which_step("future_prediction", task, clip.ahead[0], slots={"step": words})


def _which_step(
    category: str,
    task: str,
    step: str,
    *,
    slots: dict[str, str] | None = None,
    barred: tuple[str, ...] = (),
) -> Ask:
    """A question answered by a step. Wrong are the task's other steps, then steps that it does not have, but none of a
    like task, which could be done as well.
    """
    own = [step_words(task, other) for other in PLANS[task] if other != step and other not in barred]
    thing = TASKS[task].object_name
    missing = [name for name in ("grasp", "release", "approach") if name not in PLANS[task]]
    strange = [step_words(task, name) for name in missing] + [f"hide the {thing} under the table"]
    others = [other for other in PLANS if other not in (task, LIKE_TASKS.get(task))]
    strange += [step_words(other, name) for other in others for name in PLANS[other][-2:]]
    right = step_words(task, step)
    wrong = tuple(words for words in dict.fromkeys([*own, *strange]) if words != right)
    return Ask(category=category, answer=f"<{right}>", slots=slots or {}, wrong=_quoted(wrong))


def _quoted(steps: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"<{words}>" for words in steps)


def _other_plans(task: str, ahead: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Plans that are not what remains: too long, too short, in another order."""
    plan = PLANS[task]
    others = [plan[i:] for i in range(len(plan))] + [ahead[::-1], plan[::-1], ahead[1:], (*ahead, plan[0]), plan[:1]]
    return [other for other in dict.fromkeys(others) if other and other != ahead]
