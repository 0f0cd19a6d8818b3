"""The training loop of Stage I, as one Ray Train worker runs it.

Every random choice follows from (seed, step), and a checkpoint holds the step, so a run that was killed continues
with the losses it would have had.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedTokenizerBase

from blm.model.backbone import load_backbone, save_backbone
from blm.model.optim import ScheduledOptimizers, make_optimizers
from blm.model.sft import GroundingHead, SftBatch, SftModule, collate, correct_answers
from blm.model.short_attention import use_short_attention
from blm.model.training import mixed_precision, resolve_precision
from blm.pipelines import workers
from blm.pipelines.sft_data import RowStore, row_order
from blm.pipelines.workspace import write_json

LOG_EVERY = 25  # steps between points of the curve
EVAL_BATCH = 50


def tokenizer_loader(source: str) -> Callable[[], PreTrainedTokenizerBase]:
    """A function that loads the tokenizer once in each process that calls it."""
    loaded: list[PreTrainedTokenizerBase] = []

    def load() -> PreTrainedTokenizerBase:
        if not loaded:
            from transformers import AutoTokenizer

            loaded.append(AutoTokenizer.from_pretrained(source))
        return loaded[0]

    return load


@dataclass(kw_only=True, slots=True)
class _Training:
    """What a worker holds while it trains."""

    stage: dict[str, Any]
    """Stage1Config as plain data."""
    seed: int
    autocast: AbstractContextManager[Any]
    module: SftModule
    wrapped: nn.Module
    """`module` behind its data-parallel wrapper."""
    rows: RowStore
    pad: int
    checkpoint: Path
    rank: int
    world: int
    device: torch.device
    progress: dict[str, Any]
    """Everything of a checkpoint that is not a tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Phase:
    """The vision warm-up or the conversations."""

    name: str
    steps: int
    batch: int
    first_step: int
    """Place of its first step on the curve."""
    vision_only: bool


def train(config: dict[str, Any]) -> None:
    """Train from `config["start"]` and write `model/` and `metrics.json` into `config["out"]`."""
    rank, world, device = workers.prepare(config)
    out, stage = Path(config["out"]), config["stage"]
    torch.manual_seed(config["seed"])  # the grounding head starts at random
    mllm, processor = load_backbone(config["start"], device=str(device))
    head = GroundingHead(mllm.config.text_config.hidden_size).to(device) if stage["grounding_weight"] > 0 else None
    module = SftModule(mllm, head)
    precision = resolve_precision(stage["precision"], config["dtype"], device)
    use_short_attention(mllm.model.language_model)
    checkpoint = out / "train" / "checkpoint.pt"
    saved = workers.load_checkpoint(checkpoint)
    fresh: dict[str, Any] = {"phase": 0, "step": 0, "curve": [], "seconds": 0.0, "before": None}
    training = _Training(
        stage=stage,
        seed=config["seed"],
        autocast=mixed_precision(device, precision),
        module=module,
        wrapped=workers.parallelise(module, stage["parallel"], list(mllm.model.language_model.layers)),
        rows=RowStore([Path(path) for path in config["train"]]),
        pad=processor.tokenizer.pad_token_id,
        checkpoint=checkpoint,
        rank=rank,
        world=world,
        device=device,
        progress=saved["progress"] if saved else fresh,
    )
    questions = RowStore([Path(path) for path in config["test"]])
    progress = training.progress
    if progress["before"] is None:
        progress["before"] = _accuracy(training, questions)
    for number, phase in enumerate(_phases(stage)):
        if number < progress["phase"]:
            continue
        if number > progress["phase"]:
            progress |= {"phase": number, "step": 0}
        _run_phase(training, phase, saved if saved and saved["progress"]["phase"] == number else None)
    after = _accuracy(training, questions)
    state = _whole_state(mllm) if stage["parallel"] == "fsdp" else None
    if rank == 0:
        save_backbone(out / "model", mllm, processor, state_dict=state)
        write_json(out / "metrics.json", _metrics(progress, after, mllm, stage))
    dist.barrier()


def _phases(stage: dict[str, Any]) -> list[_Phase]:
    warm_up = stage["vision_steps"] if stage["backbone"] == "tiny" else 0
    return [
        _Phase(name="vision warm-up", steps=warm_up, batch=stage["vision_batch"], first_step=0, vision_only=True),
        _Phase(name="conversations", steps=stage["steps"], batch=stage["batch"], first_step=warm_up, vision_only=False),
    ]


def _whole_state(mllm: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that FSDP2 sharded, whole on rank 0."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(mllm, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def _run_phase(training: _Training, phase: _Phase, saved: dict[str, Any] | None) -> None:
    """Train one phase to its end, from its beginning or from what was `saved` in its midst."""
    stage, progress, wrapped = training.stage, training.progress, training.wrapped
    optimizers = _optimizers(training.module, phase, stage)
    if saved is not None:
        workers.load_full_state(wrapped, optimizers.parts, saved)
        optimizers.load_schedule_state(saved["schedule"])
    losses, counted = torch.zeros(2, device=training.device), 0
    first, spent, started, last_save = progress["step"], progress["seconds"], time.monotonic(), time.monotonic()
    wrapped.train()
    for step in range(first, phase.steps):
        with training.autocast:
            language, grounding = wrapped(_batch(training, phase, step), phase.vision_only)
            loss = language + stage["grounding_weight"] * grounding
        optimizers.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(wrapped.parameters(), stage["clip_norm"])
        optimizers.step()
        losses += torch.stack([language.detach(), grounding.detach()]).float()
        counted += 1
        now = time.monotonic()
        progress |= {"step": step + 1, "seconds": spent + now - started}
        last = step + 1 == phase.steps
        if (step + 1) % LOG_EVERY == 0 or last:
            _log(training, phase, (losses / counted).tolist(), (step + 1 - first) * phase.batch / (now - started))
            losses, counted = torch.zeros_like(losses), 0
            if last or workers.agree(now - last_save > stage["checkpoint_every_s"]):
                state = workers.full_state(wrapped, optimizers.parts)
                workers.save_checkpoint(
                    training.checkpoint, state | {"schedule": optimizers.schedule_state(), "progress": progress}
                )
                last_save = now


def _optimizers(module: SftModule, phase: _Phase, stage: dict[str, Any]) -> ScheduledOptimizers:
    """Those of one phase. Muon takes the blocks' matrices; embeddings, patches and heads stay with AdamW."""
    blocks = [module.mllm.model.visual.blocks, module.mllm.model.language_model.layers]
    parts = make_optimizers(
        module,
        learning_rate=stage["learning_rate"],
        weight_decay=stage["weight_decay"],
        muon=blocks if stage["optimizer"] == "muon" else (),
    )
    return ScheduledOptimizers(parts, steps=max(phase.steps, 1), warmup=stage["warmup"], floor=0.05)


def _batch(training: _Training, phase: _Phase, step: int) -> SftBatch:
    """This worker's share of a step's rows. The warm-up takes rows with pictures, and of their text one token."""
    rows = training.rows
    pool = rows.with_images if phase.vision_only else range(len(rows))
    seed = training.seed * 2 + phase.vision_only
    order = row_order(len(pool), step * phase.batch, phase.batch, seed)[training.rank :: training.world]
    chosen = [rows[int(pool[i])] for i in order]
    if phase.vision_only:
        chosen = [
            replace(row, input_ids=row.input_ids[:1], labels=row.labels[:1], positions=row.positions[:, :1])
            for row in chosen
        ]
    return collate(chosen, training.pad).to(training.device)


def _log(training: _Training, phase: _Phase, losses: list[float], rate: float) -> None:
    step = training.progress["step"]
    point = {"step": phase.first_step + step, "loss": round(losses[0], 5), "grounding": round(losses[1], 5)}
    training.progress["curve"].append(point | {"samples_per_s": round(rate, 1)})
    if training.rank == 0:
        left_s = (phase.steps - step) * phase.batch / rate
        print(
            f"[stage1] {phase.name} {step}/{phase.steps}  loss {point['loss']:.3f}  grounding {point['grounding']:.3f}"
            f"  {rate:.0f} samples/s  {left_s:.0f} s left",
            flush=True,
        )


def _accuracy(training: _Training, questions: RowStore) -> dict[str, list[int]]:
    """Answers right and asked, by category and over all; every rank asks its share of a fixed sample."""
    limit = min(training.stage["eval_rows"], len(questions))
    chosen = row_order(len(questions), 0, limit, seed=0)[training.rank :: training.world]
    training.module.eval()
    counts: dict[str, list[int]] = {}
    for first in range(0, len(chosen), EVAL_BATCH):
        part = [int(i) for i in chosen[first : first + EVAL_BATCH]]
        batch = collate([questions[i] for i in part], training.pad).to(training.device)
        with workers.whole(training.module):
            right = correct_answers(training.module.mllm, batch)
        for index, correct in zip(part, right.tolist(), strict=True):
            for key in (questions.categories[index], "all"):
                entry = counts.setdefault(key, [0, 0])
                entry[0] += int(correct)
                entry[1] += 1
    gathered: list[Any] = [None] * training.world
    dist.all_gather_object(gathered, counts)
    keys = sorted({key for part in gathered for key in part})
    return {key: [sum(part.get(key, [0, 0])[j] for part in gathered) for j in (0, 1)] for key in keys}


def _metrics(
    progress: dict[str, Any], after: dict[str, list[int]], mllm: nn.Module, stage: dict[str, Any]
) -> dict[str, Any]:
    def share(counts: dict[str, list[int]]) -> dict[str, float]:
        return {key: right / asked for key, (right, asked) in counts.items()}

    samples = sum(phase.steps * phase.batch for phase in _phases(stage))
    return {
        "curve": progress["curve"],
        "accuracy": {
            "before": share(progress["before"]),
            "after": share(after),
            "n": {key: asked for key, (_, asked) in after.items()},
        },
        "parameters": sum(p.numel() for p in mllm.parameters()),
        "samples_per_s": round(samples / max(progress["seconds"], 1e-9), 1),
    }
