"""Language retention: does a model still know what it knew before it learned about robots?

Three measures, of any model folder, to be taken before and after a training and compared:

- held-out questions without pictures, by right answers and perplexity;
- general knowledge: of four options the one that the model finds likeliest, by bytes so that long ones are not at a
  disadvantage (a guess is right in one of four);
- plain prose, and files that a person names.

Perplexity is of tokens, and tells models with the same tokenizer apart; bits per byte compares any two.

    blm evaluate digital --only language
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blm.model.backbone import load_backbone
from blm.model.chat_encoder import ChatEncoder
from blm.model.families import parts_of
from blm.model.packed_attention import use_packed_attention
from blm.model.packing import pack
from blm.pipelines.finetune.heldout import scorer
from blm.pipelines.retention_sources import Passage, corpus_passages, file_passages, general_passages
from blm.pipelines.statistics import wilson

MAX_TOKENS = 8192
"""In one batch."""
AHEAD = 512
"""Passages that are sorted by length before they are put into batches."""

Scored = tuple[Passage, bool, float, int]
"""A passage, whether all its tokens are the likeliest, nats, tokens."""


def measure_retention(
    model: str | Path,
    corpora: Path | None,
    *,
    device: str,
    dtype: str,
    limit: int = 0,
    texts: Sequence[Path] = (),
) -> dict[str, Any]:
    """How well a model knows language.

    model: a folder or a hub name.
    corpora: folder with `test/`, or None.
    texts: files or folders of plain text or conversations.
    limit: at most so many questions of the corpora and passages of each of `texts`; 0: all.

    Returns `n`, `accuracy` with its 95 % interval `low` to `high`, `perplexity` and `bits_per_byte` of the held-out
    questions (without any, of general knowledge); and `categories`, rows of source, category, n, accuracy (None for
    plain text), perplexity and bits_per_byte, with a row `all` for each source of questions. UserError if the model or
    a file cannot be read.
    """
    import torch

    mllm, processor = load_backbone(str(model), device=device, dtype=getattr(torch, dtype))
    use_packed_attention(parts_of(mllm).language)
    encoder = ChatEncoder(processor, mllm.config)
    score = scorer(mllm, lambda rows: pack(rows, pad_token_id=encoder.pad_token_id).to(device))
    scored: list[Scored] = []
    with torch.inference_mode():
        for batch in _batches(_passages(corpora, encoder, limit, texts)):
            scored += list(zip(batch, *score([passage.row for passage in batch]), strict=True))
    rows = _rows(scored)
    totals = {row["source"]: row for row in rows if row["category"] == "all"}
    total = totals.get("corpus", totals["general"])
    low, high = wilson(round(total["accuracy"] * total["n"]), total["n"])
    return {
        **{name: total[name] for name in ("n", "accuracy", "perplexity", "bits_per_byte")},
        "low": low,
        "high": high,
        "categories": rows,
    }


def _passages(corpora: Path | None, encoder: ChatEncoder, limit: int, texts: Sequence[Path]) -> Iterator[Passage]:
    if corpora is not None:
        yield from corpus_passages(corpora, encoder, limit)
    yield from general_passages(encoder)
    for path in texts:
        yield from file_passages(path, encoder, limit)


def _batches(passages: Iterator[Passage]) -> Iterator[list[Passage]]:
    """Passages of like length together, few at a time in memory."""
    held: list[Passage] = []
    for passage in passages:
        held.append(passage)
        if len(held) == AHEAD:
            yield from _by_length(held)
            held = []
    yield from _by_length(held)


def _by_length(passages: list[Passage]) -> Iterator[list[Passage]]:
    batch: list[Passage] = []
    tokens = 0
    for passage in sorted(passages, key=lambda p: len(p.row.input_ids)):
        if batch and tokens + len(passage.row.input_ids) > MAX_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(passage)
        tokens += len(passage.row.input_ids)
    if batch:
        yield batch


def _rows(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """A row for each source and category, and for each source of questions one over `all`."""
    groups: dict[tuple[str, str], list[Scored]] = {}
    for one in _settled(scored):
        passage = one[0]
        for category in (passage.category, "all") if passage.asked else (passage.category,):
            groups.setdefault((passage.source, category), []).append(one)
    order = {source: place for place, source in enumerate(("corpus", "general", "prose"))}
    return [
        {"source": source, "category": category} | _figures(groups[source, category])
        for source, category in sorted(groups, key=lambda key: (order.get(key[0], 9), key[0], key[1] == "all", key[1]))
    ]


def _settled(scored: Sequence[Scored]) -> Iterator[Scored]:
    """The same with one entry a multiple-choice question: its right option, right if it is the likeliest by bytes."""
    questions: dict[int, list[Scored]] = {}
    for one in scored:
        if one[0].question < 0:
            yield one
        else:
            questions.setdefault(one[0].question, []).append(one)
    for options in questions.values():
        passage, _, nats, tokens = next(one for one in options if one[0].right_option)
        likeliest = min(options, key=lambda one: (one[2] / one[0].n_bytes, one[0].right_option))
        yield passage, likeliest[0].right_option, nats, tokens


def _figures(scored: Sequence[Scored]) -> dict[str, Any]:
    nats, tokens = sum(one[2] for one in scored), sum(one[3] for one in scored)
    n_bytes = sum(one[0].n_bytes for one in scored)
    asked = [one[1] for one in scored if one[0].asked]
    return {
        "n": len(scored),
        "accuracy": sum(asked) / len(asked) if asked else None,
        "perplexity": math.exp(min(nats / max(tokens, 1), 50.0)),
        "bits_per_byte": nats / math.log(2) / max(n_bytes, 1),
    }


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Lines of a table of two measurements: a row for each source and category that both have."""
    first = {(row["source"], row["category"]): row for row in before["categories"]}
    pairs = [(first[key], row) for row in after["categories"] if (key := (row["source"], row["category"])) in first]
    wide = 2 + max((len(_name(row)) for _, row in pairs), default=8)
    lines = [f"{'':<{wide}}{'n':>6}{'right':>16}{'perplexity':>22}{'bits a byte':>18}"]
    for old, new in pairs:
        right = "-" if new["accuracy"] is None else f"{old['accuracy']:.1%} -> {new['accuracy']:.1%}"
        perplexity = f"{old['perplexity']:.4g} -> {new['perplexity']:.4g}"
        bits = f"{old['bits_per_byte']:.3f} -> {new['bits_per_byte']:.3f}"
        lines.append(f"{_name(new):<{wide}}{new['n']:>6}{right:>16}{perplexity:>22}{bits:>18}")
    return lines


def _name(row: Mapping[str, Any]) -> str:
    return row["source"] if row["category"] == row["source"] else f"{row['source']}, {row['category']}"
