"""The report's results: success in the physical space and accuracy in the digital one, beside the paper's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blm.pipelines.charts import Rate, rate_chart
from blm.pipelines.paper_tables import (
    BY_CATEGORY,
    DIGITAL,
    DIGITAL_BENCHMARKS,
    EPISODES_PER_CELL,
    PHYSICAL,
    TASKS,
    paper_rate,
)
from blm.pipelines.report_page import Html, Section, counts, folded, note, percent, table
from blm.pipelines.workspace import read_json_if_there

PAPER_NOTE = (
    "The paper's numbers (BLM1, arXiv 2510.24161) come from a 7B backbone, other demonstrations and "
    f"{EPISODES_PER_CELL} episodes a cell; they are a reference, not a comparison on equal terms."
)


def physical(evaluate: Path) -> Section | None:
    """Success of each cell on unseen seeds, with random actions and the paper beside it."""
    cells = (read_json_if_there(evaluate / "summary.json") or {}).get("cells", [])
    ours = [c for c in cells if c["policy"] != "random"]
    if not ours:
        return None
    random = {c["cell"]: c for c in cells if c["policy"] == "random"}
    rates = [
        Rate(
            name=c["cell"],
            rate=c["rate"],
            low=c["low"],
            high=c["high"],
            random=random[c["cell"]]["rate"] if c["cell"] in random else None,
            paper=paper_rate(*c["cell"].split("/")),
        )
        for c in ours
    ]
    rows = [_cell_row(c, random.get(c["cell"])) for c in ours]
    head = ("cell", "success", "95 % interval", "episodes", "random actions", "paper", "median steps", "failures")
    body = rate_chart(rates) + table(head, rows)
    if len(ours) > 2:
        body += "<h3>By robot and task</h3>" + _matrix(ours)
    body += note(
        "Seeds of these episodes were never collected from. Wilson intervals; an episode that broke counts as failed."
    )
    return Section(title="Physical space", anchor="physical", body=body + note(PAPER_NOTE) + _paper_physical())


def _cell_row(c: Mapping[str, Any], random: Mapping[str, Any] | None) -> list[object]:
    interval = Html(text=f"{100 * c['low']:.0f} to {100 * c['high']:.0f}&thinsp;%", right=True)
    beside = (
        None
        if random is None
        else Html(text=f"{100 * random['rate']:.0f}&thinsp;% of {random['episodes']}", right=True)
    )
    return [
        c["cell"],
        Html(text=f"<b>{100 * c['rate']:.0f}&thinsp;%</b>", right=True),
        interval,
        f"{c['successes']} of {c['episodes']}",
        beside,
        percent(paper_rate(*c["cell"].split("/"))),
        c.get("median_steps"),
        counts(c.get("failures", {})),
    ]


def _matrix(cells: Sequence[Mapping[str, Any]]) -> str:
    """Robots by tasks, with averages."""
    by_name = {c["cell"]: c for c in cells}
    robots = list(dict.fromkeys(c["cell"].split("/")[0] for c in cells))
    names = list(dict.fromkeys(c["cell"].split("/")[1] for c in cells))
    rows = []
    for robot in robots:
        mine = [by_name.get(f"{robot}/{task}") for task in names]
        present = [c["rate"] for c in mine if c is not None]
        shown: list[object] = [
            None
            if c is None
            else Html(text=f"<b>{100 * c['rate']:.0f}</b><small>{100 * c['low']:.0f} to {100 * c['high']:.0f}</small>")
            for c in mine
        ]
        rows.append([robot, *shown, Html(text=f"<b>{100 * sum(present) / len(present):.1f}</b>")])
    return table(("robot", *names, "average, %"), rows)


def _paper_physical() -> str:
    """All published physical results, folded."""
    rows = [
        [model if i == 0 else "", robot, *rates.values(), round(sum(rates.values()) / len(rates), 1)]
        for model, robots in PHYSICAL.items()
        for i, (robot, rates) in enumerate(robots.items())
    ]
    return folded("All physical results of the paper, %", table(("model", "robot", *TASKS, "average"), rows))


def error_of(c: Mapping[str, Any]) -> object:
    """Mean error of answers that are positions, with that of the best blind guess; nothing for other answers."""
    if c.get("error_cm") is None:
        return Html(text=f"{c['error_px']:.1f} px", right=True) if c.get("error_px") is not None else None
    guess = f" ({c['guess_error_cm']:.1f})" if c.get("guess_error_cm") is not None else ""
    return Html(text=f"{c['error_cm']:.1f}{guess} cm", right=True)


DIGITAL_COLUMNS = (
    ("before", "before Stage I"),
    ("after", "after Stage I"),
    ("new_words", "asked in new words"),
    ("majority", "commonest answer"),
    ("no_picture", "grey picture"),
    ("within_2_bins", "within 2 bins"),
    ("choice", "multiple choice"),
    ("free", "free answer"),
    ("f1", "words in common"),
    ("iou", "box overlap"),
)
"""Columns of digital.json that are shares, with their titles; those that no category has are left out."""


def digital(evaluate: Path) -> Section | None:
    """Held-out questions before and after Stage I, beside what needs no model and no picture."""
    found = read_json_if_there(evaluate / "digital.json") or {}
    categories = found.get("categories", [])
    if not categories:
        return None
    columns = [(key, title) for key, title in DIGITAL_COLUMNS if any(c.get(key) is not None for c in categories)]
    seeing = [c for c in categories if c.get("no_picture") is not None]
    ordered = seeing + [c for c in categories if c.get("no_picture") is None]
    rows: list[list[object]] = [
        [c["category"].replace("_", " "), c["n"], *(_share(c, key) for key, _ in columns), error_of(c)] for c in ordered
    ]
    asked = sum(c["n"] for c in categories)
    right = sum(c["after"] * c["n"] for c in categories)
    shares = [
        Html(text=f"<b>{100 * right / asked:.0f}&thinsp;%</b>", right=True) if key == "after" else None
        for key, _ in columns
    ]
    rows.append([Html(text="<b>all</b>"), asked, *shares, None])
    head = ("category", "questions", *(title for _, title in columns), "error (guess)")
    paper = [
        [model, *scores.values(), round(sum(scores.values()) / len(scores), 2)] for model, scores in DIGITAL.items()
    ]
    return Section(
        title="Digital space",
        anchor="digital",
        body=table(head, rows)
        + note(
            "Questions about scenes of held-out seeds, then plain language. An answer counts if right to the word; "
            "a position is three words. The commonest answer and the grey picture say what can be had without seeing."
        )
        + folded(
            "Digital results of the paper (its own benchmarks), %",
            table(("model", *DIGITAL_BENCHMARKS, "average"), paper),
        )
        + "".join(_paper_categories(name) for name in BY_CATEGORY),
    )


def _paper_categories(name: str) -> str:
    """A published benchmark's sub-categories, folded."""
    models = BY_CATEGORY[name]
    rows = [
        [category.removesuffix("_task").replace("_", " "), *(scores[category] for scores in models.values())]
        for category in next(iter(models.values()))
    ]
    title = next(title for title in DIGITAL_BENCHMARKS if title.lower() == name)
    return folded(f"The paper's {title} by sub-category, %", table(("sub-category", *models), rows))


def _share(c: Mapping[str, Any], key: str) -> object:
    if key == "after":
        return Html(text=f"<b>{100 * c['after']:.0f}&thinsp;%</b>", right=True)
    return percent(c.get(key))
