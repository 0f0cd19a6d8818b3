"""From answers to scores: what each answer meant, what it is worth, and what that makes of each benchmark."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from blm.pipelines.digital import own
from blm.pipelines.digital.benchmarks import BENCHMARKS, Benchmark
from blm.pipelines.digital.extract import extract
from blm.pipelines.digital.generate import Reading
from blm.pipelines.digital.item import Item
from blm.pipelines.digital.judge import Case, Judge
from blm.pipelines.digital.words import bleu, same_words
from blm.pipelines.ledger import Record
from blm.pipelines.statistics import wilson

Scorer = Literal["judge", "exact", "bleu"]

WORDS = {"exact": same_words, "bleu": bleu}
LABELS = {"exact": "equal words, not the paper's judge", "bleu": "BLEU as RoboBrain counts it, not the paper's judge"}
NO_JUDGE = "not scored: no judge"


@dataclass(frozen=True, kw_only=True, slots=True)
class Marking:
    """How answers are scored."""

    reading: Reading
    """How letters are read."""
    scorers: Mapping[str, Scorer]
    """Of each judged benchmark."""
    judge: Judge | None
    """None: what only a judge can score stays without a score."""
    judge_name: str = ""
    """Its model, as it stands beside the scores."""
    limit: int = 0
    """Whether only a part of each benchmark was asked."""
    corpora: Path | None = None
    """The corpora folder of our own questions."""
    progress: Callable[[str], None] = field(default=lambda _: None)
    """Where words about the progress go."""


def mark(items: Sequence[Item], said: Mapping[tuple[str, str], Record], marking: Marking) -> list[dict[str, Any]]:
    """A line for each item: asked, said, extracted, and its score from 0 to 1 (None without a judge).

    What could not be asked or answered scores 0, with its `error`.
    """
    lines = [_line(item, said.get(item.key), marking) for item in items]
    judged = [
        (item, line) for item, line in zip(items, lines, strict=True) if line["scorer"] == "judge" and not line["error"]
    ]
    if marking.judge is not None and judged:
        cases = [Case(question=i.question, reference=i.reference, answer=line["said"]) for i, line in judged]
        for (_, line), verdict in zip(judged, marking.judge.rate(cases, marking.progress), strict=True):
            line |= {"score": verdict.rating or 0.0, "rated": verdict.rating is not None, "verdict": verdict.reply}
    return lines


def _line(item: Item, record: Record | None, marking: Marking) -> dict[str, Any]:
    kind = BENCHMARKS[item.benchmark].kind
    scorer = {"choice": "letter", "own": "meaning"}.get(kind) or marking.scorers[item.benchmark]
    answer = record["said"] if record else ""
    line = {
        "benchmark": item.benchmark,
        "id": item.id,
        "category": item.category,
        "asked": "\n".join(f"{message['role']}: {message['text']}" for message in item.messages),
        "media": [media.name for media in item.media],
        "reference": item.reference,
        "said": answer,
        "finished": bool(record and record["finished"]),
        "tries": record["tries"] if record else 0,
        "error": record["error"] if record else f"missing: {item.missing}",
        "scorer": scorer,
        "extracted": None,
        "score": 0.0,
    }
    if scorer == "judge" and marking.judge is None:
        return line | {"score": None}
    if line["error"]:
        return line
    if scorer == "letter":
        reading = marking.reading
        letter = extract(answer, item.options, parser=reading.parser, reasoning=reading.reasoning)
        return line | {"extracted": letter, "score": float(letter.lower() == item.reference.lower())}
    if scorer == "meaning":
        meant = own.meaning(item, answer if line["finished"] else f"{answer} ...")
        return line | {"extracted": meant, "score": float(meant == item.reference)}
    if scorer == "judge":
        return line | {"score": None}
    return line | {"score": WORDS[scorer](item.reference, answer)}


# ---------------------------------------------------------------------------------------------------------- summaries


def summarise(items: Sequence[Item], lines: Sequence[Mapping[str, Any]], marking: Marking) -> dict[str, dict[str, Any]]:
    """What each benchmark came to, by name."""
    return {
        name: _summary(benchmark, mine, [line for line in lines if line["benchmark"] == name], marking)
        for name, benchmark in BENCHMARKS.items()
        if (mine := [item for item in items if item.benchmark == name])
    }


def _summary(
    benchmark: Benchmark, items: Sequence[Item], lines: Sequence[Mapping[str, Any]], marking: Marking
) -> dict[str, Any]:
    scorer = str(lines[0]["scorer"])
    scored = all(line["score"] is not None for line in lines)
    summary: dict[str, Any] = {
        "title": benchmark.title,
        "n": len(lines),
        "expected": sum(benchmark.expected.values()) or None,
        "answered": sum(not line["error"] for line in lines),
        "missing": sum(bool(item.missing) for item in items),
        "errors": sum(bool(line["error"]) for line in lines),
        "cut_off": sum(not line["finished"] and not line["error"] for line in lines),
        "scored_by": _scored_by(scorer, scored, marking),
        "paper_rule": scorer not in WORDS and scored,
        "decoding": [asdict(decoding) for decoding in dict.fromkeys(item.decoding for item in items)],
        "average": "over sub-categories, each counting alike" if benchmark.macro else "over questions",
        "score": None,
    }
    if scorer == "letter":
        summary |= {"unread": sum(line["extracted"] == "" for line in lines)}
    if scorer == "judge":
        summary |= {"unparsed": sum(line.get("rated") is False for line in lines)}
    if benchmark.kind == "own" and marking.corpora is not None:
        rows = own.rows(marking.corpora, items, {line["id"]: line["extracted"] or "" for line in lines})
        return summary | own.total(rows) | {"categories": rows}
    order = [name for name in benchmark.expected if any(line["category"] == name for line in lines)]
    rows = [_row(name, [line for line in lines if line["category"] == name], benchmark) for name in order]
    if scored:
        summary["score"] = fmean(row["score"] for row in rows)
        if not benchmark.macro:
            summary |= {"score": fmean(line["score"] for line in lines)} | _interval(lines)
    return summary | {"categories": rows}


def _row(name: str, lines: Sequence[Mapping[str, Any]], benchmark: Benchmark) -> dict[str, Any]:
    scores = [line["score"] for line in lines if line["score"] is not None]
    row = {
        "category": name,
        "n": len(lines),
        "expected": benchmark.expected[name],
        "scored": len(scores),
        "errors": sum(bool(line["error"]) for line in lines),
        "score": fmean(scores) if len(scores) == len(lines) else None,
    }
    return row | _interval(lines)


def _interval(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Wilson's interval, where every answer is right or wrong and its scorer knows nothing between."""
    if any(line["scorer"] not in ("letter", "exact") or line["score"] is None for line in lines):
        return {}
    low, high = wilson(round(sum(line["score"] for line in lines)), len(lines))
    return {"low": low, "high": high}


def _scored_by(scorer: str, scored: bool, marking: Marking) -> str:
    if scorer == "judge":
        return f"judge {marking.judge_name}" if scored else NO_JUDGE
    if scorer == "letter":
        return f"letter, {marking.reading.parser} parser"
    return "right to the word" if scorer == "meaning" else LABELS[scorer]
