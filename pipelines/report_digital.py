"""The report's results in the digital space: accuracy by category, beside the paper's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blm.pipelines.paper_tables import BY_CATEGORY, DIGITAL, DIGITAL_BENCHMARKS
from blm.pipelines.report_page import Html, Section, folded, note, percent, table
from blm.pipelines.workspace import read_json_if_there


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
