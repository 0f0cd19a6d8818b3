"""Scores that the paper (BLM1, arXiv 2510.24161) publishes, in percent: the reference rows and columns of reports.

They come from a 7B backbone, other demonstrations and 50 episodes a cell; they stand beside a run's own numbers to
say what the method has reached elsewhere, not as a score to beat on equal terms.
"""

TASKS = ("PickCube", "PushCube", "StackCube", "PullCube", "PlaceSphere", "LiftPegUpright")
ROBOTS = ("panda", "xarm6", "xarm7", "widowx_ai")
EPISODES_PER_CELL = 50

_PHYSICAL = {
    "pi0": ((98, 96, 74, 82, 94, 60), (78, 92, 46, 90, 38, 60), (58, 82, 36, 90, 28, 38), (100, 50, 26, 54, 78, 70)),
    "pi0, one model a robot": (
        (100, 96, 80, 82, 82, 54),
        (56, 94, 56, 98, 58, 36),
        (50, 86, 24, 98, 46, 56),
        (100, 54, 14, 44, 52, 70),
    ),
    "HPT": ((90, 94, 0, 88, 18, 40), (68, 64, 6, 60, 32, 62), (74, 54, 8, 94, 28, 50), (86, 60, 8, 48, 0, 68)),
    "UniAct": ((92, 88, 34, 92, 4, 0), (92, 94, 2, 94, 30, 4), (94, 62, 12, 82, 14, 44), (64, 38, 6, 4, 2, 0)),
    "GR00T-N1": (
        (92, 100, 26, 58, 64, 66),
        (100, 100, 34, 100, 68, 14),
        (94, 90, 14, 98, 56, 32),
        (100, 52, 22, 60, 44, 78),
    ),
    "GR00T-N1.5, pre-trained": (
        (92, 100, 54, 100, 68, 68),
        (90, 88, 82, 100, 100, 48),
        (98, 92, 50, 94, 80, 14),
        (100, 70, 62, 48, 60, 52),
    ),
    "Diffusion Policy": (
        (58, 100, 2, 92, 30, 28),
        (98, 96, 14, 86, 40, 50),
        (90, 82, 18, 90, 72, 46),
        (74, 76, 2, 16, 6, 66),
    ),
    "Diffusion Policy, one model a robot": (
        (82, 100, 18, 100, 32, 64),
        (90, 96, 24, 94, 60, 50),
        (96, 88, 18, 100, 66, 48),
        (80, 84, 6, 58, 0, 84),
    ),
    "Diffusion Policy, one model a cell": (
        (88, 98, 36, 100, 50, 72),
        (98, 98, 58, 100, 70, 52),
        (98, 92, 48, 100, 84, 48),
        (88, 88, 26, 52, 2, 74),
    ),
    "GR00T-N1.5, from scratch": (
        (100, 98, 70, 82, 68, 78),
        (86, 98, 66, 98, 92, 6),
        (94, 88, 42, 98, 86, 16),
        (94, 82, 54, 74, 0, 76),
    ),
    "BLM1": (
        (86, 100, 60, 100, 96, 66),
        (92, 100, 86, 100, 94, 10),
        (72, 88, 56, 100, 78, 54),
        (100, 68, 44, 84, 2, 84),
    ),
}

PHYSICAL: dict[str, dict[str, dict[str, int]]] = {
    model: {robot: dict(zip(TASKS, rates, strict=True)) for robot, rates in zip(ROBOTS, rows, strict=True)}
    for model, rows in _PHYSICAL.items()
}
"""model -> robot -> task -> success rate in percent."""

DIGITAL_BENCHMARKS = ("RoboVQA", "AgiBot", "HoloAssist", "RoboFail", "EgoThink", "ShareRobot")

DIGITAL: dict[str, dict[str, float]] = {
    model: dict(zip(DIGITAL_BENCHMARKS, scores, strict=True))
    for model, scores in {
        "GPT-4o": (75.45, 38, 54, 58, 72.42, 61.30),
        "Claude-3.5 Sonnet": (64.55, 32, 46, 58, 48.54, 53.20),
        "LLaVA-OneVision-7B": (75.45, 29, 31, 58, 59.46, 40.41),
        "InternVL2.5-8B": (69.09, 29, 37, 60, 61.54, 45.06),
        "Qwen2.5-VL-7B-Instruct": (86.36, 42, 49, 64, 57.00, 46.67),
        "Cosmos-7B": (90.91, 39, 45, 62, 56.67, 57.70),
        "Magma-8B": (47.27, 28, 35, 49, 48.83, 35.17),
        "VeBrain-7B": (85.45, 41, 44, 55, 59.33, 51.28),
        "ChatVLA-2B": (60.91, 38, 36, 52, 47.71, 35.80),
        "RoboBrain2-7B": (72.73, 31, 48, 54, 61.21, 51.88),
        "BLM1": (95.45, 47, 56, 66, 59.42, 65.40),
    }.items()
}
"""model -> benchmark -> score in percent."""

BY_CATEGORY: dict[str, dict[str, dict[str, float]]] = {
    "egothink": {
        "BLM1": {
            "activity": 55,
            "forecast": 51,
            "localization_location": 81,
            "localization_spatial": 71,
            "object_affordance": 61,
            "object_attribute": 76,
            "object_existence": 63,
            "planning_assistance": 55,
            "planning_navigation": 25,
            "reasoning_comparing": 60,
            "reasoning_counting": 56,
            "reasoning_situated": 59,
        }
    },
    "sharerobot": {
        "BLM1": {
            "discriminative_affordance_(negative)_task": 94.63,
            "discriminative_affordance_(positive)_task": 84.88,
            "future_prediction_task": 73.29,
            "generative_affordance_task": 29.15,
            "past_description_task": 30.24,
            "planning_remaining_steps_task": 72.80,
            "planning_task": 60.49,
            "planning_with_context_task": 85.73,
            "success_(negative)_task": 51.71,
            "success_(positive)_task": 71.22,
        }
    },
}
"""benchmark -> model -> sub-category -> score in percent. The paper's average counts every sub-category alike."""


def paper_rate(robot: str, task: str, model: str = "BLM1") -> float | None:
    """A published success rate as a fraction, or None where the paper has none."""
    percent = PHYSICAL[model].get(robot, {}).get(task)
    return None if percent is None else percent / 100
