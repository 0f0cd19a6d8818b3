"""Answers to benchmark questions: batches through Ray Data to actors that hold the model, results one by one on disk.

Killed at any moment, the next call goes on where this one was. An answer belongs to a model, a prompt, media and a way
of decoding; where one of them has changed it is asked for again.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from blm.cluster.asks import ASKS
from blm.model.errors import UserError
from blm.pipelines.datasets.items import map_items
from blm.pipelines.digital.engine import Ask, Engine, Reply
from blm.pipelines.digital.extract import Parser, extract
from blm.pipelines.digital.item import Decoding, Item, Media
from blm.pipelines.digital.media import MediaError, MediaRules, Shown, show
from blm.pipelines.ledger import Ledger, Record

KEY = ("benchmark", "id")
PROGRESS_EVERY_S = 10.0
DECODING_THREADS = 4
"""Questions of a batch whose media are decoded at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """What generates, and on what."""

    kind: Literal["vllm", "transformers"] = "vllm"
    """Which library."""
    model: str
    """Folder or hub name."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs."""
    dtype: str = "float32"
    """Its number format."""
    replicas: int = 1
    """Engines side by side."""
    tensor_parallel: int = 1
    """GPUs of each engine; vLLM alone."""
    batch: int = 32
    """Questions given to an engine at a time."""
    max_length: int = 0
    """Tokens of question and answer; 0: as many as the model takes."""
    memory: float = 0.0
    """vLLM: share of a GPU's memory, or GB of KV cache on a CPU; 0: 0.9, or 1 GB."""

    def __post_init__(self) -> None:
        for name in ("replicas", "tensor_parallel", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more")
        if self.tensor_parallel > 1 and (self.kind != "vllm" or self.device != "cuda"):
            raise UserError("several GPUs an engine need --engine vllm and --device cuda")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How it is told whether an answer can be read; one that cannot is drawn anew where its decoding allows."""

    parser: Parser
    reasoning: bool


def build_engine(config: EngineConfig, *, max_images: int, max_videos: int) -> Engine:
    """The engine, in this process. UserError if the model cannot be loaded."""
    common: dict[str, Any] = {
        "model": config.model,
        "device": config.device,
        "dtype": config.dtype,
        "max_length": config.max_length,
    }
    if config.kind == "transformers":
        from blm.pipelines.digital.engine_transformers import TransformersEngine

        return TransformersEngine(**common)
    from blm.pipelines.digital.engine_vllm import VllmEngine

    return VllmEngine(
        **common,
        tensor_parallel=config.tensor_parallel,
        max_images=max_images,
        max_videos=max_videos,
        max_sequences=config.batch,
        memory=config.memory or (0.9 if config.device == "cuda" else 1.0),
    )


class AskWorker:
    """Ray Data worker: an engine with an `Asker` before it."""

    def __init__(
        self,
        *,
        engine: dict[str, Any],
        rules: dict[str, Any],
        reading: dict[str, Any],
        max_images: int,
        max_videos: int,
    ) -> None:
        built = build_engine(EngineConfig(**engine), max_images=max_images, max_videos=max_videos)
        self._asker = Asker(built, MediaRules(**rules), Reading(**reading))

    def __call__(self, work: dict[str, Any]) -> dict[str, Any]:
        """work: `tasks`, JSON of what `_task` makes. Returns `records`, JSON of a ledger record each."""
        return {"records": json.dumps(self._asker.answer(json.loads(work["tasks"])))}


class Asker:
    """Shows, asks, and asks again where nothing could be read."""

    def __init__(self, engine: Engine, rules: MediaRules, reading: Reading) -> None:
        self._engine = engine
        self._rules = rules
        self._reading = reading

    def answer(self, tasks: Sequence[Mapping[str, Any]]) -> list[Record]:
        """A record for each task, in order."""
        replies: list[Reply | None] = [None] * len(tasks)
        tries = [0] * len(tasks)
        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            shown = list(pool.map(self._shown, tasks))
        for place, media in enumerate(shown):
            if isinstance(media, MediaError):
                replies[place] = Reply(error=str(media))
        while due := [place for place, task in enumerate(tasks) if self._due(task, replies[place], tries[place])]:
            asks = []
            for place in due:
                decoding = Decoding(**tasks[place]["decoding"]).attempt(tries[place])
                media = shown[place]
                assert not isinstance(media, MediaError), "a question without its media is not asked"
                asks.append(Ask(messages=tasks[place]["messages"], media=media, decoding=decoding))
                tries[place] += 1
            for place, reply in zip(due, self._engine.answer(asks), strict=True):
                replies[place] = reply
        return [
            {name: task[name] for name in (*KEY, "asked")}
            | {"said": reply.text, "finished": reply.finished, "error": reply.error, "tries": count}
            for task, reply, count in zip(tasks, replies, tries, strict=True)
            if reply is not None
        ]

    def _shown(self, task: Mapping[str, Any]) -> list[Shown] | MediaError:
        """A task's media, or why they cannot be shown."""
        try:
            return [show(Media(**media), self._rules) for media in task["media"]]
        except MediaError as error:
            return error

    def _due(self, task: Mapping[str, Any], reply: Reply | None, tries: int) -> bool:
        if reply is None:
            return True
        if reply.error or tries >= task["decoding"]["tries"]:
            return False
        reading = self._reading
        return not extract(reply.text, task["options"], parser=reading.parser, reasoning=reading.reasoning)


def generate(
    items: Sequence[Item],
    *,
    engine: EngineConfig,
    rules: MediaRules,
    reading: Reading,
    path: Path,
    progress: Callable[[str], None],
) -> dict[tuple[str, str], Record]:
    """The answers to all items whose media are there, by `Item.key`; what the ledger `path` holds is not asked again.

    Ray must be running. UserError if the model cannot be loaded; what goes wrong with a single question is its `error`.
    """
    model = model_identity(engine.model)
    tasks = {item.key: _task(item, engine, rules, model) for item in items if not item.missing}

    def valid(record: Record) -> bool:
        task = tasks.get((record["benchmark"], record["id"]))
        return task is None or (task["asked"] == record["asked"] and not record["error"])

    with Ledger(path, KEY, keep=valid) as ledger:
        new = [task for key, task in tasks.items() if key not in ledger]
        if len(new) < len(tasks):
            progress(f"{len(tasks) - len(new)} of {len(tasks)} answers are here already")
        arguments = {
            "engine": asdict(engine),
            "rules": asdict(rules),
            "reading": asdict(reading),
            "max_images": max((_count(task, "image") for task in new), default=0),
            "max_videos": max((_count(task, "video") for task in new), default=0),
        }
        gpus = engine.tensor_parallel if engine.device == "cuda" else 0
        ask = replace(ASKS["evaluate"]["model"], gpus=float(gpus))
        began_s = told_s = time.perf_counter()
        done = 0
        work = list(_batches(new, engine.batch))
        for result in map_items(work, AskWorker, arguments=arguments, workers=engine.replicas, ask=ask):
            records = json.loads(result["records"])
            ledger.add(records)
            done += len(records)
            now_s = time.perf_counter()
            if done == len(new) or now_s - told_s > PROGRESS_EVERY_S:
                told_s = now_s
                progress(f"{done}/{len(new)} answers, {now_s - began_s:.0f} s")
        return {key: ledger[key] for key in tasks}


def _task(item: Item, engine: EngineConfig, rules: MediaRules, model: Sequence[Any]) -> dict[str, Any]:
    """An item as plain values, and the hash of everything that its answer depends on."""
    question = {
        "messages": list(item.messages),
        "media": [asdict(media) for media in item.media],
        "decoding": asdict(item.decoding),
        "options": dict(item.options),
    }
    ground = [question, asdict(rules), list(model), engine.kind, engine.dtype]
    asked = hashlib.sha256(json.dumps(ground, sort_keys=True).encode()).hexdigest()[:16]
    return {"benchmark": item.benchmark, "id": item.id, "asked": asked} | question


def _count(task: Mapping[str, Any], kind: str) -> int:
    return sum(media["kind"] == kind for media in task["media"])


def _batches(tasks: Sequence[Mapping[str, Any]], size: int) -> Iterator[dict[str, Any]]:
    """Batches of questions that are drawn alike and show about as much; the same ones whoever answers them."""
    order = sorted(
        tasks, key=lambda t: (t["benchmark"], str(t["decoding"]), len(t["media"]), len(str(t["messages"])), t["id"])
    )
    for first in range(0, len(order), size):
        yield {"tasks": json.dumps(order[first : first + size])}


def model_identity(model: str) -> list[Any]:
    """What tells a model from another: its hub name, or the names, sizes and times of its folder's files.

    UserError if it is a path without a model.
    """
    folder = Path(model)
    if not (folder / "config.json").is_file():
        if folder.is_dir() or folder.is_absolute() or model.startswith("."):
            raise UserError(f"no model in {model} (config.json is missing); give a folder with one, or a hub name")
        return [model]
    stats = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".json")}
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()]
