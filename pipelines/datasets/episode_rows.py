"""Ray Data worker that turns drawn clips and their chosen questions into conversations."""

from pathlib import Path
from typing import Any

import numpy as np

from blm.actors.sim.tasks import TASKS
from blm.pipelines.datasets.chat import ChatRow, chat_turn, write_chat
from blm.pipelines.datasets.episode_balance import Chosen, n_options
from blm.pipelines.datasets.episode_questions import asks
from blm.pipelines.datasets.episode_views import Ask, View
from blm.pipelines.datasets.episode_words import with_options, wording
from blm.pipelines.datasets.parquet import read_table
from blm.pipelines.datasets.questions import with_images

SOURCE = "episodes"


class EpisodeWriter:
    """Writes the conversations about one part's clips to one chat file. Called by Ray Data; works as well without."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Item: `part`, `out`, `split`, and for every clip a `Chosen` as text, empty if nothing is asked."""
        rows = [
            self._chat_row(row, Chosen.from_text(text), item["split"])
            for row, text in zip(read_table(Path(item["part"])).to_pylist(), item["questions"], strict=True)
            if text
        ]
        write_chat(Path(item["out"]), rows)
        return {"out": item["out"], "rows": len(rows)}

    def _chat_row(self, row: dict[str, Any], chosen: Chosen, split: str) -> ChatRow:
        view = View.from_json(row["view"])
        ask = asks(view)[chosen.ask]
        rng = np.random.default_rng([self.seed, 32, *row["id"].encode()])
        task = TASKS[view.facts.task]
        text = wording(ask.category, task, ask.slots, rng, held_out=chosen.held_out)
        answer = ask.answer
        if chosen.letter is not None:
            text = with_options(text, _options(ask, chosen.letter, rng))
            answer = chr(ord("A") + chosen.letter)
        return ChatRow(
            id=f"{SOURCE}-{split}-{row['id']}",
            source=SOURCE,
            category=ask.category,
            images=tuple(row["images"]),
            messages=chat_turn(with_images(text, len(row["images"])), answer),
            meta=_meta(row, view, ask, chosen, split),
        )


def _options(ask: Ask, letter: int, rng: np.random.Generator) -> tuple[str, ...]:
    """All options in order, the right one in its place, the others drawn from the most telling ones."""
    n_wrong = n_options(ask) - 1
    pool = ask.wrong[: n_wrong + 2]
    options = [pool[int(k)] for k in rng.permutation(len(pool))[:n_wrong]]
    options.insert(letter, ask.answer)
    return tuple(options)


def _meta(row: dict[str, Any], view: View, ask: Ask, chosen: Chosen, split: str) -> dict[str, Any]:
    moments = row["moments"]
    meta: dict[str, Any] = {
        "robot": view.robot,
        "task": view.facts.task,
        "seed": row["seed"],
        "origin": view.clip.mishap or "episode",
        "clip": view.clip.kind,
        "video": view.clip.video,
        "cameras": row["cameras"],
        "steps": moments,
        "form": "free" if chosen.letter is None else "choice",
    }
    if chosen.letter is not None:
        meta["said"] = ask.answer
    if view.clip.video:
        meta["fps"] = round((len(moments) - 1) * row["control_hz"] / max(moments[-1] - moments[0], 1), 3)
    else:  # every camera's picture of one moment: what Stage I's grounding is taught with
        meta["object_positions"] = [round(value, 5) for value in view.facts.object_positions]
    if split == "test":
        meta["phrasing"] = "held_out" if chosen.held_out else "seen"
    return meta
