"""What Stage I is found to have done: held-out questions, and the contents of `metrics.json`."""

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from blm.model.packing import EncodedRow, pack
from blm.pipelines.finetune.batches import phases, stream
from blm.pipelines.finetune.heldout import Counts, HeldOut, Scores, measure, with_grey
from blm.pipelines.finetune.network import Stage1Model
from blm.pipelines.finetune.row_store import RowStore
from blm.pipelines.stage1 import Stage1Config


def ask_held_out(model: Stage1Model, questions: Sequence[HeldOut], rows: RowStore, *, hide: bool = False) -> Counts:
    """Counts of right answers by category; with `hide` the pictures are grey. Called by every worker."""

    def score(asked: Sequence[EncodedRow]) -> Scores:
        return model.score(pack(asked, pad_token_id=model.encoder.pad_token_id))

    return measure(
        questions,
        rows,
        score,
        rank=dist.get_rank(),
        world=dist.get_world_size(),
        max_tokens=model.config.micro_tokens,
        hide=with_grey if hide else None,
    )


def metrics(
    config: Stage1Config, seed: int, model: Stage1Model, rows: RowStore, progress: dict[str, Any]
) -> dict[str, Any]:
    """What `metrics.json` holds beside the held-out questions."""
    samples = sum(phase.steps * phase.batch for phase in phases(config))
    parameters = list(model.mllm.parameters())
    return {
        "curve": progress["curve"],
        "skipped_steps": progress["skipped"],
        "mixture": stream(rows, config, seed).report(rows.lengths, rows.answers, config.steps * config.batch),
        "parameters": sum(p.numel() for p in parameters),
        "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "samples_per_s": round(samples / max(progress["seconds"], 1e-9), 1),
    }
