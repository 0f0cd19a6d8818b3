"""One digital evaluation from beginning to end: load, ask, score, write down."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blm.cluster import nodes
from blm.cluster.asks import asked
from blm.model.errors import UserError
from blm.pipelines.digital import tables
from blm.pipelines.digital.benchmarks import BENCHMARKS, LANGUAGE, load_items
from blm.pipelines.digital.generate import generate, model_identity
from blm.pipelines.digital.item import Item
from blm.pipelines.digital.judge import Judge
from blm.pipelines.digital.marks import Marking, mark, summarise
from blm.pipelines.digital.settings import OURS, Settings
from blm.pipelines.digital.verdict import TEMPLATE_NAME
from blm.pipelines.ledger import Record
from blm.pipelines.workspace import read_json, read_json_if_there, write_json, write_text

RESULT = "digital.json"
FORMAT = 1


def evaluate(settings: Settings, address: str | None = None) -> dict[str, Any]:
    """Measure what the settings choose, write it below `settings.out`, print the tables; returns the main row.

    address: of a Ray cluster to join. UserError for what a person can mend.
    """
    others = [read_result(path) for path in settings.compare]
    identity = model_identity(settings.engine.model)
    items = load(settings)
    _claim(settings, identity)
    judge = _judge(settings)  # before the model works for hours for a judge that cannot be asked
    said, language = _answers(settings, items, address)
    marking = Marking(
        reading=settings.reading,
        scorers=settings.scorers,
        judge=judge,
        judge_name=settings.judge.model if settings.judge else "",
        corpora=settings.corpora,
        progress=progress,
    )
    lines = mark(items, said, marking) if items else []
    write_lines(settings.out / "answers.jsonl", lines)
    measured = summarise(items, lines, marking) | ({LANGUAGE: language} if language else {})
    result = _facts(settings) | {"benchmarks": measured}
    result["average"] = tables.average(result)
    write_json(settings.out / RESULT, result)
    _show(settings, [*others, result])
    return main_row(result, settings.out)


def progress(text: str) -> None:
    """Tell the person watching."""
    print(f"[digital] {text}", flush=True)


def load(settings: Settings) -> list[Item]:
    """The questions that are chosen. UserError if media are missing and that is not allowed."""
    items: list[Item] = []
    for name in settings.chosen:
        if name == LANGUAGE:
            continue
        benchmark = BENCHMARKS[name]
        root = settings.corpora if name in OURS else None if settings.hub else settings.benchmarks
        mine = load_items(benchmark, root, settings.load, settings.limit)
        missing = [item for item in mine if item.missing]
        if missing and not settings.allow_missing:
            raise UserError(
                f"{name}: media of {len(missing)} of {len(mine)} questions are missing, as {missing[0].missing}; "
                "docs/benchmarks.md says where to get them; leave the benchmark out with --only, or have them count as "
                "wrong with --allow-missing"
            )
        expected = sum(benchmark.expected.values()) or len(mine)
        progress(f"{name}: {len(mine) - len(missing)} of {expected} questions can be asked")
        items += mine
    return items


def _claim(settings: Settings, identity: Sequence[Any]) -> None:
    """Take the folder for this model. UserError if another's answers are in it."""
    path = settings.out / "model.json"
    own = {"model": settings.engine.model, "files": list(identity)}
    found = read_json_if_there(path)
    if found is not None and found != json.loads(json.dumps(own)):
        raise UserError(f"{settings.out} holds answers of another model, {found['model']}; choose another --out")
    write_json(path, own)


def _judge(settings: Settings) -> Judge | None:
    if settings.judge is None:
        return None
    return Judge(settings.judge, settings.verdicts or settings.out / "verdicts.jsonl")


def _answers(
    settings: Settings, items: Sequence[Item], address: str | None
) -> tuple[dict[tuple[str, str], Record], dict[str, Any] | None]:
    """What the model says to the items, and how it reads plain language if that is chosen. Starts Ray and stops it."""
    from blm.cluster.ray_runtime import connect, disconnect, is_up

    engine = settings.engine
    started = not is_up()
    gpus = engine.replicas * engine.tensor_parallel if engine.device == "cuda" else 0
    connect(num_cpus=max(os.cpu_count() or 1, engine.replicas + 1), num_gpus=gpus, address=address)
    try:
        said = generate(
            items,
            engine=engine,
            rules=settings.media,
            reading=settings.reading,
            path=settings.out / "generated.jsonl",
            progress=progress,
        )
        return said, _language(settings) if LANGUAGE in settings.chosen else None
    finally:
        if started:
            disconnect()


def _language(settings: Settings) -> dict[str, Any]:
    """How well the model reads plain language, in a process of its own."""
    import ray

    from blm.cluster.ray_runtime import cause_of

    engine = settings.engine
    progress("plain language")
    task = ray.remote(_read_language).options(**nodes.options(asked("evaluate", "model", device=engine.device)))
    options = {"device": engine.device, "dtype": engine.dtype, "limit": settings.limit, "texts": settings.texts}
    try:
        found: dict[str, Any] = ray.get(task.remote(engine.model, settings.corpora, **options))
    except Exception as error:
        if (cause := cause_of(error)) is not None:
            raise cause from None
        raise
    return found


def _read_language(model: str, corpora: Path | None, **options: Any) -> dict[str, Any]:
    """`measure_retention`; what it needs is imported where it runs."""
    from blm.pipelines.retention import measure_retention

    return measure_retention(model, corpora, **options)


# ------------------------------------------------------------------------------------------------------------ results


def _facts(settings: Settings) -> dict[str, Any]:
    """Everything that a score depends on beside the questions."""
    judge = None
    if settings.judge is not None:
        judge = {
            "model": settings.judge.model,
            "template": TEMPLATE_NAME,
            "temperature": 0,
            "tries": settings.judge.tries,
        }
    return {
        "format": FORMAT,
        "model": settings.name,
        "source": settings.engine.model,
        "prompt_mode": settings.load.mode,
        "parser": settings.reading.parser,
        "judge": judge,
        "grader": settings.grader,
        "engine": {name: value for name, value in asdict(settings.engine).items() if name != "model"},
        "media": asdict(settings.media) | {"max_images": settings.load.max_images},
        "limit": settings.limit,
    }


def read_result(path: Path) -> dict[str, Any]:
    """The `digital.json` of an earlier evaluation. UserError if it is none."""
    result: dict[str, Any] = read_json(path)
    if not isinstance(result, dict) or result.get("format") != FORMAT or "benchmarks" not in result:
        raise UserError(f"{path} is no result of `blm evaluate digital`; give its {RESULT}")
    return result


def main_row(result: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Our row of the paper's table, in percent, and what else was measured."""
    measured = dict(result["benchmarks"])
    language = measured.pop(LANGUAGE, None)

    def percent(score: float | None) -> float | None:
        return None if score is None else round(100 * score, 2)

    return {
        "model": result["model"],
        **{name: percent(summary["score"]) for name, summary in measured.items()},
        "average": percent(result["average"]),
        **({LANGUAGE: {name: language.get(name) for name in ("accuracy", "perplexity")}} if language else {}),
        "questions": {name: summary["n"] for name, summary in measured.items()},
        "scored_by": {name: summary["scored_by"] for name, summary in measured.items()},
        "out": str(out),
    }


def _show(settings: Settings, results: Sequence[Mapping[str, Any]]) -> None:
    """Print the tables, and write them as Markdown and HTML."""
    found = tables.tables(results)
    for table in found:
        print()
        print("\n".join(tables.as_text(table)))
    print()
    print("\n".join(tables.NOTES))
    title = f"Digital space: {settings.name}"
    facts = [_how(result) for result in results]
    write_text(settings.out / "digital.md", tables.as_markdown(title, found, facts))
    write_text(settings.out / "digital.html", tables.as_html(title, found, facts))


def _how(result: Mapping[str, Any]) -> str:
    judge = result["judge"]["model"] if result["judge"] else {"exact": "equal words"}.get(result["grader"], "none")
    media, engine = result["media"], result["engine"]
    frames = f"{media['frames']} frames" if media["frames"] else f"{media['fps']:g} frames a second"
    return (
        f"{result['model']}: {engine['kind']}, {engine['dtype']}, {result['prompt_mode']} prompts, {result['parser']} "
        f"parser, judge {judge}, videos at {frames} and at most {media['max_frames']}, greedy unless reasoning."
    )


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON Lines, whole or not at all."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
