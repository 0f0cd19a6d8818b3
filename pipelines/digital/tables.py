"""The tables of an evaluation: the paper's layout, its rows beside ours; as text, Markdown and HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from blm.pipelines.digital import own
from blm.pipelines.digital.benchmarks import BENCHMARKS, LANGUAGE
from blm.pipelines.digital.settings import PAPER
from blm.pipelines.paper_tables import BY_CATEGORY, DIGITAL
from blm.pipelines.report_page import Html, Section, note, page, table

Result = Mapping[str, Any]
"""What `digital.json` holds."""

OTHER_RULE, INCOMPLETE = "†", "*"
NOTES = (
    f"{OTHER_RULE} not scored by the paper's rule: not comparable with its rows.",
    f"{INCOMPLETE} not all of the published questions, or media missing (they count as wrong).",
    "Scores given by different judges are not comparable. The paper names neither its judge nor its prompts.",
    "The paper's rows are BLM1, arXiv 2510.24161.",
)
OWN_MEASURES = {"score": "right, %", "interval": "95 % interval", "majority": "commonest answer, %"}
LANGUAGE_MEASURES = {"accuracy": "right, %", "perplexity": "perplexity", "bits_per_byte": "bits a byte"}
SHARES = frozenset({"score", "majority", "accuracy"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table; its first column is text."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    ours: int = 0
    """How many of the last rows are not the paper's."""


def tables(results: Sequence[Result]) -> list[Table]:
    """All tables of one or several evaluations, the one in question last."""
    found = [_six(results), *(_categories(name, results) for name in BY_CATEGORY)]
    found += [
        _side_by_side(own.NAME, "Held-out questions", OWN_MEASURES, results),
        _side_by_side(LANGUAGE, "Plain language", LANGUAGE_MEASURES, results),
    ]
    found += [_how(result) for result in results]
    return [found_table for found_table in found if found_table.ours]


def average(result: Result) -> float | None:
    """The mean of the six, each counting alike; None unless all six have a score."""
    scores = [result["benchmarks"].get(name, {}).get("score") for name in PAPER]
    return None if any(score is None for score in scores) else sum(scores) / len(scores)


def mark_of(summary: Result | None) -> str:
    """A score in percent with the signs that say what it is not."""
    if summary is None or summary["score"] is None:
        return "-"
    whole = summary["expected"] in (None, summary["n"]) and not summary["errors"]
    return (
        f"{100 * summary['score']:.2f}" + ("" if summary["paper_rule"] else OTHER_RULE) + ("" if whole else INCOMPLETE)
    )


def _six(results: Sequence[Result]) -> Table:
    rows = [
        (model, *(f"{score:.2f}" for score in scores.values()), f"{sum(scores.values()) / len(scores):.2f}")
        for model, scores in DIGITAL.items()
    ]
    ours = [result for result in results if any(name in result["benchmarks"] for name in PAPER)]
    for result in ours:
        marks = [mark_of(result["benchmarks"].get(name)) for name in PAPER]
        mean = average(result)
        signs = "".join(sign for sign in (OTHER_RULE, INCOMPLETE) if any(sign in mark for mark in marks))
        rows.append((result["model"], *marks, "-" if mean is None else f"{100 * mean:.2f}{signs}"))
    head = ("model", *(BENCHMARKS[name].title for name in PAPER), "average")
    return Table(title="Digital space, %", head=head, rows=tuple(rows), ours=len(ours))


def _categories(name: str, results: Sequence[Result]) -> Table:
    """A benchmark's sub-categories, models by row."""
    benchmark = BENCHMARKS[name]
    rows = []
    for model, scores in BY_CATEGORY[name].items():
        mean = sum(scores.values()) / len(scores)
        rows.append((model, *(f"{scores[category]:.2f}" for category in benchmark.expected), f"{mean:.2f}"))
    mine = [result for result in results if name in result["benchmarks"]]
    for result in mine:
        summary = result["benchmarks"][name]
        score = {row["category"]: row["score"] for row in summary["categories"]}
        marks = [_percent(score.get(category)) for category in benchmark.expected]
        rows.append((result["model"], *marks, mark_of(summary)))
    head = ("model", *(category.removesuffix("_task").replace("_", " ") for category in benchmark.expected), "average")
    return Table(title=f"{benchmark.title}, %", head=head, rows=tuple(rows), ours=len(mine))


def _side_by_side(name: str, title: str, measures: Mapping[str, str], results: Sequence[Result]) -> Table:
    """What our own questions came to by category, models side by side. measures: name in a row -> title of a column."""
    mine = [result for result in results if name in result["benchmarks"]]
    by_category = [{_category(row): row for row in _rows(result["benchmarks"][name])} for result in mine]
    categories = dict.fromkeys(category for rows in by_category for category in rows)
    cells = tuple(
        (
            category,
            next(str(rows[category]["n"]) for rows in by_category if category in rows),
            *(_measure(rows.get(category, {}), measure) for rows in by_category for measure in measures),
        )
        for category in categories
    )
    several = len(mine) > 1
    columns = (f"{result['model']}: {column}" if several else column for result in mine for column in measures.values())
    return Table(title=title, head=("category", "n", *columns), rows=cells, ours=len(cells))


def _rows(summary: Result) -> list[Result]:
    """A summary's categories, and a row over all of them where a single score is given."""
    total = [{**summary, "category": "all"}] if "score" in summary else []
    return [*summary["categories"], *total]


def _category(row: Result) -> str:
    source = row.get("source", row["category"])
    return str(row["category"] if source == row["category"] else f"{source}: {row['category']}")


def _measure(row: Result, name: str) -> str:
    if name == "interval":
        return _interval(row)
    value = row.get(name)
    if value is None:
        return "-"
    return f"{100 * value:.2f}" if name in SHARES else f"{value:.3f}"


def _how(result: Result) -> Table:
    """How each score came about."""
    rows = tuple(
        (
            summary["title"],
            mark_of(summary),
            _interval(summary),
            f"{summary['answered']} of {summary['expected'] or summary['n']}",
            str(summary["missing"]),
            str(summary["errors"] - summary["missing"]),
            str(summary["cut_off"]),
            str(summary.get("unread", summary.get("unparsed", "-"))),
            summary["scored_by"],
        )
        for name, summary in result["benchmarks"].items()
        if name != LANGUAGE
    )
    what = ("score", "95 % interval", "answered", "media missing", "errors", "cut off", "unread", "scored by")
    return Table(title=f"How it was measured: {result['model']}", head=("benchmark", *what), rows=rows, ours=len(rows))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _interval(row: Result) -> str:
    return f"{100 * row['low']:.1f} to {100 * row['high']:.1f}" if "low" in row else "-"


# ------------------------------------------------------------------------------------------------------------ writing


def as_text(found: Table) -> list[str]:
    """Lines for a terminal; columns of a table with many of them are numbered and named below it."""
    wide = sum(len(title) + 2 for title in found.head) > 150
    head = (found.head[0], *(f"({i})" for i in range(1, len(found.head)))) if wide else found.head
    widths = [max(len(row[i]) for row in (head, *found.rows)) for i in range(len(head))]
    lines = [found.title]
    for row in (head, *found.rows):
        cells = (
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    if wide:
        lines.append("; ".join(f"({i}) {title}" for i, title in enumerate(found.head) if i))
    return lines


def as_markdown(title: str, found: Sequence[Table], facts: Sequence[str]) -> str:
    """A Markdown document."""
    lines = [f"# {title}", "", *facts, ""]
    for one in found:
        lines += [f"## {one.title}", "", _line(one.head), _line(["---", *["---:"] * (len(one.head) - 1)])]
        own = len(one.rows) - one.ours
        lines += [_line([f"**{row[0]}**" if i >= own else row[0], *row[1:]]) for i, row in enumerate(one.rows)]
        lines.append("")
    return "\n".join([*lines, *(f"{text}  " for text in NOTES), ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_html(title: str, found: Sequence[Table], facts: Sequence[str]) -> str:
    """A page that needs nothing but itself."""
    sections = []
    for i, one in enumerate(found):
        rows = [[row[0], *(Html(text=escape(cell), right=True) for cell in row[1:])] for row in one.rows]
        sections.append(Section(title=one.title, anchor=f"table-{i}", body=table(one.head, rows)))
    sections.append(Section(title="Notes", anchor="notes", body="".join(note(text) for text in (*facts, *NOTES))))
    return page(title, "", sections)
