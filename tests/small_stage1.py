"""A corpus of dark and bright pictures, and what the driver of Stage I hands to its workers for it."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from blm.model.chat_encoder import ChatEncoder
from blm.pipelines.datasets.chat import ChatRow, chat_turn, write_chat
from blm.pipelines.finetune import encode, loop
from blm.pipelines.finetune.heldout import choose_questions
from blm.pipelines.stage1 import Stage1Config

SIDE_PX = 56
CONFIG = Stage1Config(
    vision_steps=25,
    vision_batch=8,
    steps=75,
    batch=16,
    learning_rate=2e-3,
    warmup=5,
    checkpoint_every_s=0.0,
    max_length=512,
)


def bright_or_dark(n: int, seed: int) -> list[ChatRow]:
    """Pictures that are dark or bright, and the question which; every fourth row is talk without a picture."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        if i % 4 == 3:
            talk = chat_turn("Where is the goal?", "yes")
            rows.append(ChatRow(id=f"{seed}-{i}", source="language", category="talk", messages=talk))
            continue
        bright = bool(rng.integers(2))
        buffer = io.BytesIO()
        pixels = rng.integers(0, 90, (SIDE_PX, SIDE_PX, 3)) + (160 if bright else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        positions = [0.0, 0.0, 0.1, *rng.uniform(-0.1, 0.1, 2).tolist(), 0.02, 0.1, 0.0, 0.0]
        rows.append(
            ChatRow(
                id=f"{seed}-{i}",
                source="simulator",
                category="brightness",
                messages=chat_turn("<image>\nyes or no?", "yes" if bright else "no"),
                images=(buffer.getvalue(),),
                meta={"object_positions": positions},
            )
        )
    return rows


def write_corpora(folder: Path) -> Path:
    """`train/` and `test/`."""
    for split, n in (("train", 84), ("test", 40)):
        write_chat(folder / split / "rows.parquet", bright_or_dark(n, seed=n))
    return folder


def loop_config(mllm: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """What a worker gets, with encoded corpora below `folder`; options change the configuration."""
    corpora = write_corpora(folder / "corpora")
    files = {}
    for split in ("train", "test"):
        target = folder / "encoded" / split / "rows.arrow"
        target.parent.mkdir(parents=True)
        encode.encode_file(
            corpora / split / "rows.parquet", target, ChatEncoder.load(mllm), cameras=("front",), max_length=512
        )
        files[split] = [str(target)]
    return {
        "stage": replace(CONFIG, **options),
        "start": str(mllm),
        **files,
        "questions": choose_questions(corpora, 1000),
        "out": str(folder / "out"),
        "seed": 0,
        "dtype": "float32",
        "threads": 1,
    }


def run(*configs: dict[str, Any]) -> None:
    """Train once for each configuration, in this process and its group."""
    for config in configs:
        loop.run(config, torch.device("cpu"))


class KilledError(Exception):
    """Stands for the death of a process."""


def run_and_die(config: dict[str, Any], step: int) -> None:
    """Train, and end in the midst of step `step` (counted from 0 over all phases), as if the process were killed."""
    original, calls = loop.take_step, [0]

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] > step:
            raise KilledError
        return original(*args, **kwargs)

    loop.take_step = counting
    try:
        run(config)
    except KilledError:
        return
    finally:
        loop.take_step = original


def learned(out: Path) -> list[tuple[float, ...]]:
    """What of a run's curve does not depend on the clock."""
    curve = json.loads((out / "metrics.json").read_text())["curve"]
    return [tuple(v for k, v in point.items() if not k.endswith("_per_s")) for point in curve]
