"""`blm bench serve`, conversation: how soon answers begin and how fast they go on, beside bare `vllm serve`.

Both servers hold the same folder with the same engine options and are asked the same questions by turns: one at a time,
then eight at a time. After each turn there is a pause, since vLLM's processes spin for a second after their last work.
"""

import statistics
import time
from collections.abc import Mapping
from typing import Any

from blm.pipelines.benchmarks.serve_clients import Clients

STREAMS = 8
"""Conversations side by side."""
ALONE, TOGETHER = 8, 16
"""Conversations a turn, one after the other and side by side."""
TOKENS = 64
"""Of every answer."""
PAUSE_S = 1.5
OURS, BARE = "blm serve", "vllm serve"
MEASURES = {"ttft_ms": "first text, ms", "tokens_per_s": "tokens/s", "tokens_per_s_8": f"tokens/s of {STREAMS}"}


def measure_chat(urls: Mapping[str, str], clients: Clients, rounds: int, image_px: int) -> dict[str, Any]:
    """urls: by side. Medians of the rounds; with two sides also how many times as slow ours is, median of the rounds'
    ratios, and how many answers are the same to the letter."""
    found: dict[str, dict[str, list[float]]] = {side: {name: [] for name in MEASURES} for side in urls}
    texts: dict[str, list[str]] = {side: [] for side in urls}
    print(f"{'conversation':<16}" + "".join(f"{title:>18}" for title in MEASURES.values()), flush=True)
    for turn in range(-1, rounds):  # the first turn warms both sides up and is not counted
        for side in sorted(urls, reverse=turn % 2 == 1):
            measured, answers = one_turn(urls[side], clients, 1000 * (turn + 1), image_px)
            time.sleep(PAUSE_S)
            if turn >= 0:
                texts[side] += answers
                for name, value in measured.items():
                    found[side][name].append(value)
                print(f"{side:<16}" + "".join(f"{measured[name]:>18.1f}" for name in MEASURES), flush=True)
    sides = {side: {name: round(statistics.median(of), 2) for name, of in one.items()} for side, one in found.items()}
    if set(urls) != {OURS, BARE}:
        return {"sides": sides}
    ours, bare = found[OURS], found[BARE]
    return {
        "sides": sides,
        "rounds": {side: {name: [round(x, 2) for x in of] for name, of in one.items()} for side, one in found.items()},
        "ttft_ratio": slower(ours["ttft_ms"], bare["ttft_ms"]),
        "tokens_ratio": slower(bare["tokens_per_s"], ours["tokens_per_s"]),
        "tokens_ratio_8": slower(bare["tokens_per_s_8"], ours["tokens_per_s_8"]),
        "same_answers": sum(a == b for a, b in zip(texts[OURS], texts[BARE], strict=True)),
        "answers": len(texts[OURS]),
    }


def slower(above: list[float], below: list[float]) -> float:
    """The median of the rounds' ratios."""
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)


def one_turn(url: str, clients: Clients, first: int, image_px: int) -> tuple[dict[str, float], list[str]]:
    """The measures of one turn, and what was answered to those who asked alone. first: number of the first picture."""
    alone = clients.talk(url, streams=1, conversations=ALONE, tokens=TOKENS, image_px=image_px, first=first)
    many = clients.talk(
        url, streams=STREAMS, conversations=TOGETHER, tokens=TOKENS, image_px=image_px, first=first + ALONE
    )
    held = alone["conversations"]
    measured = {
        "ttft_ms": statistics.median(one["ttft_ms"] for one in held),
        "tokens_per_s": statistics.median(
            1e3 * (one["tokens"] - 1) / max(one["total_ms"] - one["ttft_ms"], 1e-3) for one in held
        ),
        "tokens_per_s_8": sum(one["tokens"] for one in many["conversations"]) / many["seconds"],
    }
    return measured, [one["text"] for one in held]
