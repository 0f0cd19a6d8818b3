"""The training loop of Stage I, as one Ray Train worker runs it.

Every random choice follows from (seed, step), and a checkpoint holds the step, so a run that was killed continues with the
losses it would have had.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from blm.model.backbone import load_backbone, save_backbone
from blm.model.optim import cosine_schedule, make_optimizer
from blm.model.sft import EncodedRow, GroundingHead, SftModule, collate, correct_answers
from blm.pipelines import workers
from blm.pipelines.sft_data import RowStore, row_order
from blm.pipelines.workspace import write_json

LOG_EVERY = 25  # steps between points of the curve
EVAL_BATCH = 50


def tokenizer_loader(source: str) -> Callable[[], Any]:
    """A function that loads the tokenizer once in each process that calls it."""
    loaded: list[Any] = []

    def load() -> Any:
        if not loaded:
            from transformers import AutoTokenizer

            loaded.append(AutoTokenizer.from_pretrained(source))
        return loaded[0]

    return load


def train(config: dict[str, Any]) -> None:
    """Train from `config["start"]` and write `model/` and `metrics.json` into `config["out"]`."""
    rank, world, device = workers.prepare(config)
    out, stage = Path(config["out"]), config["stage"]
    torch.manual_seed(config["seed"])  # the grounding head starts at random
    mllm, processor = load_backbone(config["start"], device=str(device))
    head = GroundingHead(mllm.config.text_config.hidden_size).to(device) if stage["grounding_weight"] > 0 else None
    module = SftModule(mllm, head)
    wrapped = workers.parallelise(module, stage["parallel"], list(mllm.model.language_model.layers))
    train_rows = RowStore([Path(path) for path in config["train"]])
    test_rows = RowStore([Path(path) for path in config["test"]])
    pad = processor.tokenizer.pad_token_id

    vision_steps = stage["vision_steps"] if stage["backbone"] == "tiny" else 0
    phases = [(vision_steps, True), (stage["steps"], False)]
    checkpoint_path = out / "train" / "checkpoint.pt"
    saved = workers.load_checkpoint(checkpoint_path)
    progress = saved["progress"] if saved else {"phase": 0, "step": 0, "curve": [], "seconds": 0.0, "before": None}
    if progress["before"] is None:
        progress["before"] = _accuracy(module, test_rows, stage["eval_rows"], pad, rank, world, device)

    for phase in range(progress["phase"], len(phases)):
        steps, vision_only = phases[phase]
        if phase > progress["phase"]:
            progress |= {"phase": phase, "step": 0}
        optimizer = make_optimizer(
            module, learning_rate=stage["learning_rate"], weight_decay=stage["weight_decay"], betas=(0.9, 0.95)
        )
        schedule = cosine_schedule(optimizer, steps=max(steps, 1), warmup=stage["warmup"], floor=0.05)
        if saved and saved["progress"]["phase"] == phase:
            workers.load_full_state(wrapped, optimizer, saved)
            schedule.load_state_dict(saved["schedule"])
        _run_phase(config, wrapped, optimizer, schedule, progress, train_rows, steps, vision_only, checkpoint_path, pad)
        saved = None

    accuracy = _accuracy(module, test_rows, stage["eval_rows"], pad, rank, world, device)
    if stage["parallel"] == "fsdp":
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        state = get_model_state_dict(mllm, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    else:
        state = None
    if rank == 0:
        save_backbone(out / "model", mllm, processor, state_dict=state)
        write_json(out / "metrics.json", _metrics(progress, accuracy, mllm, stage))
    dist.barrier()


def _run_phase(config, wrapped, optimizer, schedule, progress, rows, steps, vision_only, checkpoint_path, pad) -> None:
    rank, world, device = dist.get_rank(), dist.get_world_size(), next(wrapped.parameters()).device
    stage = config["stage"]
    batch_size = stage["vision_batch"] if vision_only else stage["batch"]
    pool = rows.with_images if vision_only else range(len(rows))
    seed = config["seed"] * 2 + vision_only
    use_bf16 = config["dtype"] == "bfloat16"
    autocast = torch.autocast(device.type, dtype=torch.bfloat16) if use_bf16 else nullcontext()
    losses = torch.zeros(2)
    counted, last_save, started = 0, time.monotonic(), time.monotonic()
    spent, first = progress["seconds"], progress["step"]
    wrapped.train()
    for step in range(first, steps):
        order = row_order(len(pool), step * batch_size, batch_size, seed)[rank::world]
        batch = collate([_with_pictures_only(rows[int(pool[i])], vision_only) for i in order], pad).to(device)
        with autocast:
            language, grounding = wrapped(batch, vision_only)
            loss = language + stage["grounding_weight"] * grounding
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(wrapped.parameters(), stage["clip_norm"])
        optimizer.step()
        schedule.step()
        losses += torch.stack([language.detach(), grounding.detach()]).float().cpu()
        counted += 1
        progress["step"] = step + 1
        progress["seconds"] = spent + time.monotonic() - started
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            rate = (step + 1 - first) * batch_size / (time.monotonic() - started)
            _log(progress, losses / counted, vision_only, step + 1, steps, rate, rank, stage)
            losses, counted = torch.zeros(2), 0
        due = torch.tensor(time.monotonic() - last_save > stage["checkpoint_every_s"])
        if (step + 1) % LOG_EVERY == 0 and _agree(due):
            _save(checkpoint_path, wrapped, optimizer, schedule, progress)
            last_save = time.monotonic()
    _save(checkpoint_path, wrapped, optimizer, schedule, progress)


def _agree(due: torch.Tensor) -> bool:
    """Rank 0's opinion, on every rank: clocks differ, and saving is collective."""
    flag = due.to(torch.int32)
    dist.broadcast(flag, src=0)
    return bool(flag)


def _save(path: Path, wrapped: nn.Module, optimizer, schedule, progress: dict[str, Any]) -> None:
    state = workers.full_state(wrapped, optimizer) | {"schedule": schedule.state_dict(), "progress": progress}
    workers.save_checkpoint(path, state)


def _with_pictures_only(row: EncodedRow, vision_only: bool) -> EncodedRow:
    """In the warm-up only the pictures matter: the text is cut to one token."""
    if not vision_only:
        return row
    return EncodedRow(
        input_ids=row.input_ids[:1],
        labels=row.labels[:1],
        positions=row.positions[:, :1],
        images=row.images,
        points_px=row.points_px,
    )


def _log(progress, losses, vision_only, step, steps, rate, rank, stage) -> None:
    offset = 0 if vision_only else stage["vision_steps"]
    point = {"step": offset + step, "loss": round(float(losses[0]), 5), "grounding": round(float(losses[1]), 5)}
    progress["curve"].append(point | {"samples_per_s": round(rate, 1)})
    if rank == 0:
        name = "vision warm-up" if vision_only else "conversations"
        batch = stage["vision_batch"] if vision_only else stage["batch"]
        left_s = (steps - step) * batch / rate
        print(
            f"[stage1] {name} {step}/{steps}  loss {point['loss']:.3f}  grounding {point['grounding']:.3f}"
            f"  {rate:.0f} samples/s  {left_s:.0f} s left",
            flush=True,
        )


def _accuracy(module, rows: RowStore, limit: int, pad: int, rank: int, world: int, device) -> dict[str, list[int]]:
    """Answers right and asked, by category and over all; every rank asks its share of a fixed sample."""
    chosen = row_order(len(rows), 0, min(limit, len(rows)), seed=0)[rank::world]
    module.eval()
    counts: dict[str, list[int]] = {}
    for first in range(0, len(chosen), EVAL_BATCH):
        part = [int(i) for i in chosen[first : first + EVAL_BATCH]]
        with workers.whole(module):
            right = correct_answers(module.mllm, collate([rows[i] for i in part], pad).to(device))
        for index, correct in zip(part, right.tolist(), strict=True):
            for key in (rows.categories[index], "all"):
                entry = counts.setdefault(key, [0, 0])
                entry[0] += int(correct)
                entry[1] += 1
    gathered: list[Any] = [None] * world
    dist.all_gather_object(gathered, counts)
    keys = sorted({key for part in gathered for key in part})
    return {key: [sum(part.get(key, [0, 0])[j] for part in gathered) for j in (0, 1)] for key in keys}


def _metrics(progress, after, mllm, stage) -> dict[str, Any]:
    def share(counts: dict[str, list[int]]) -> dict[str, float]:
        return {key: right / asked for key, (right, asked) in counts.items()}

    samples = stage["vision_steps"] * stage["vision_batch"] + stage["steps"] * stage["batch"]
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
