"""A study's results as text for the console and as Markdown, from the rows of `results`."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from blm.pipelines.show import duration

Row = Mapping[str, Any]

COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("ablation", lambda row: row["name"]),
    ("success", lambda row: _success(row["overall"])),
    ("95 % interval", lambda row: _interval(row["overall"])),
    ("episodes", lambda row: str(row["overall"]["episodes"])),
    ("only it / only base", lambda row: _discordant(row["overall"])),
    ("p", lambda row: _p(row["overall"])),
    ("probe", lambda row: _number(_mean_probe(row), "{:.2f} cm")),
    ("held-out flow", lambda row: _number(_mean(row, "val_flow"), "{:.4f}")),
    ("questions", lambda row: _number(_mean(row, "digital_accuracy"), "{:.1%}")),
    ("time", lambda row: _number(_mean(row, "wall_s"), duration)),
)
"""Of the table of all cells together."""

LEGEND = (
    "success: of all cells together, with Wilson's interval. only it / only base: episodes on the same seeds that one"
    " of the two brings off and the other does not; p: McNemar's exact two-sided test on them, not corrected for the"
    " number of ablations. probe: mean error of a linear readout of the object's place from the intents. held-out flow:"
    " loss on episodes kept out of training. questions: right answers on held-out questions. time: Stage I, intents and"
    " Stage II together."
)


def text(rows: Sequence[Row]) -> str:
    """Lines of columns, then success by cell, then what has no result."""
    parts = [_aligned(_overall(rows)), "", _aligned(_by_cell(rows)), *_without(rows)]
    return "\n".join(parts)


def markdown(title: str, lines: Sequence[str], rows: Sequence[Row]) -> str:
    """A page: the title, `lines` about how it was made, both tables, what has no result, what ablations override."""
    meaning = [
        f"- `{row['name']}`: {row['about']}" + (f" (`{' '.join(row['overrides'])}`)" if row["overrides"] else "")
        for row in rows
    ]
    missing = [f"- {line}" for line in _without(rows)]
    sections = [f"# {title}", *lines, _piped(_overall(rows)), LEGEND]
    sections += ["## Success by cell", "p as above, against the base in the same cell.", _piped(_by_cell(rows))]
    sections += ["## Without a result", "\n".join(missing)] if missing else []
    sections += ["## What was changed", "\n".join(meaning)]
    return "\n\n".join(sections) + "\n"


def _overall(rows: Sequence[Row]) -> list[list[str]]:
    """Header and body of the first table; the base stands first."""
    return [[name for name, _ in COLUMNS]] + [[cell(row) for _, cell in COLUMNS] for row in rows]


def _by_cell(rows: Sequence[Row]) -> list[list[str]]:
    """Header and body of the second: a line a cell, a column an ablation."""
    shown = [row for row in rows if row["cells"]]
    names = list(dict.fromkeys(cell["cell"] for row in shown for cell in row["cells"]))
    found = [{cell["cell"]: cell for cell in row["cells"]} for row in shown]
    body = [[name, *(_cell(cells.get(name)) for cells in found)] for name in names]
    return [["cell", *(row["name"] for row in shown)], *body]


def _without(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row['name']}, seed {run['seed']}: {run['error'] or run['note']}"
        for row in rows
        for run in row["seeds"]
        if run["error"] or run["note"]
    ]


def _cell(cell: Row | None) -> str:
    """24 % (14 to 38), p 0.004"""
    if cell is None:
        return "-"
    low, high = (f"{100 * cell[end]:.0f}" for end in ("low", "high"))
    beside = f", p {_p(cell)}" if "mcnemar" in cell else ""
    return f"{_success(cell)} ({low} to {high}){beside}"


def _success(row: Row) -> str:
    return f"{row['rate']:.1%}" if row["episodes"] else "-"


def _interval(row: Row) -> str:
    return f"{row['low']:.1%} to {row['high']:.1%}" if row["episodes"] else "-"


def _discordant(row: Row) -> str:
    test = row.get("mcnemar")
    return f"{test['only_first']} / {test['only_second']}" if test and test["pairs"] else "-"


def _p(row: Row) -> str:
    test = row.get("mcnemar")
    return f"{test['p']:.2g}" if test and test["pairs"] else "-"


def _mean_probe(row: Row) -> float | None:
    """Over cells and seeds."""
    errors = [error for run in row["seeds"] for error in run["probe_cm"].values()]
    return fmean(errors) if errors else None


def _mean(row: Row, name: str) -> float | None:
    """Over the seeds that have it."""
    values = [run[name] for run in row["seeds"] if run[name] is not None]
    return fmean(values) if values else None


def _number(value: float | None, form: str | Callable[[float], str]) -> str:
    if value is None:
        return "-"
    return form.format(value) if isinstance(form, str) else form(value)


def _aligned(table: Sequence[Sequence[str]]) -> str:
    """Columns in line: the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    return "\n".join(
        "  "
        + "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in table
    )


def _piped(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    head, *body = (f"| {' | '.join(line)} |" for line in table)
    return "\n".join([head, f"|{'---|' + '---:|' * (len(table[0]) - 1)}", *body])
