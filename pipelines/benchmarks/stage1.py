"""`blm bench stage1`: packed against padded training, forward and backward, of the same conversations.

Both sides run the same model, kernels and pictures. The padded side takes conversations in the order of training, a
fixed number at a time, each filled up to the longest of its batch; the packed side deals the same conversations into
sequences without padding, as training does. Rounds alternate. Tokens of padding do not count as work. Weights stay as
they are, so both sides must come to the same loss.

On a CPU the model is that of the tiny preset; on a GPU a Qwen2.5-VL of 7B's shape with random weights, compiled, of as
many blocks as fit.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from blm.model.flops import device_flops, training_flops
from blm.model.packing import EncodedRow, PackedBatch, RowMedia, pack
from blm.model.prompts import IGNORE_INDEX
from blm.model.rope import Grid, multimodal_positions
from blm.model.sft import SftModule
from blm.model.training import compile_layers, fast_bfloat16, mixed_precision
from blm.model.vision import TOKEN_PX
from blm.pipelines.finetune.batches import ROUND_TO
from blm.pipelines.finetune.plan import plan

ANSWERED = 0.3  # share of a conversation's tokens that are answers
GPU_BYTES_PER_BLOCK = 3.2e9
"""Weights, gradients and activations that a block of the 7B's takes in bfloat16, generously."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """A distribution of conversations."""

    what: str
    lengths: Callable[[np.random.Generator, int], np.ndarray]
    """Tokens of text of so many conversations."""
    pictures: tuple[float, int]
    """Share of conversations with pictures, and how many they have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much is measured, on which kind of device."""

    rows: int
    """Conversations a round."""
    padded_rows: int
    """Of a padded batch."""
    micro_tokens: int
    """Of a packed one, at most."""
    longest: int
    """Tokens of a conversation, at most."""
    picture_px: int


CPU = Size(rows=48, padded_rows=8, micro_tokens=2048, longest=1024, picture_px=112)
GPU = Size(rows=128, padded_rows=8, micro_tokens=8192, longest=4096, picture_px=448)


def mixes(longest: int) -> dict[str, Mix]:
    """What is measured. Lengths of `robots` are those of the tiny preset's corpora (text beside two pictures of 16
    tokens); `instructions` is the long tail of general instruction data: log-normal, median 180, sigma 1.
    """
    return {
        "robots": Mix(
            what="the tiny preset's corpora: questions about two pictures, a tenth of plain language",
            lengths=lambda rng, n: np.where(rng.random(n) < 0.9, rng.normal(150, 10, n), rng.normal(137, 4, n)),
            pictures=(0.9, 2),
        ),
        "instructions": Mix(
            what="general instructions: a long tail, every third with a picture",
            lengths=lambda rng, n: rng.lognormal(np.log(180), 1.0, n).clip(16, longest),
            pictures=(1 / 3, 1),
        ),
    }


def bench_stage1(device: str, rounds: int, size: Size | None = None) -> dict[str, Any]:
    """Measure both mixes. Returns and prints tokens a second of both sides, their ratio and their losses."""
    where = torch.device(device)
    size = size or (GPU if where.type == "cuda" else CPU)
    torch.manual_seed(0)
    mllm = _large_model(where) if where.type == "cuda" else _tiny_model()
    module = SftModule(mllm, None).train()
    parameters = sum(p.numel() for p in mllm.parameters())
    print(f"Qwen2.5-VL of {parameters / 1e6:,.1f} million parameters on {device}, forward and backward", flush=True)
    half = fast_bfloat16(where)
    autocast = mixed_precision(where, "bfloat16" if half and where.type == "cpu" else "float32")
    found: dict[str, dict[str, Any]] = {}
    for name, mix in mixes(size.longest).items():
        rows = make_rows(mix, size, mllm.config)
        sides = {"packed": packed_batches(rows, size.micro_tokens), "padded": padded_batches(rows, size.padded_rows)}
        measured = _measure(module, autocast, where, sides, rounds)
        found[name] = _summary(name, mix, rows, sides, measured, mllm.config, where)
    general = found["instructions"]
    return {
        "bench": "stage1",
        "unit": "tokens a second, forward and backward",
        "ours": general["tokens_per_s_packed"],
        "reference": general["tokens_per_s_padded"],
        "ratio": general["ratio"],
        "reference_is": "the same conversations and model in padded batches; the mix `instructions`",
        "device": device,
        "precision": "bfloat16" if half else "float32",
        "parameters": parameters,
        "mixes": found,
    }


def make_rows(mix: Mix, size: Size, config: Any) -> list[EncodedRow]:
    """Random conversations of a mix: pictures first, then words, the last ones an answer."""
    rng = np.random.default_rng(0)
    side = size.picture_px // TOKEN_PX
    rows = []
    for text in mix.lengths(rng, size.rows).astype(int):
        count = mix.pictures[1] if rng.random() < mix.pictures[0] else 0
        shown = count * side * side
        length = min(int(text) + shown, size.longest)
        words = rng.integers(0, min(config.text_config.vocab_size, config.image_token_id, 900), length)
        words[:shown] = config.image_token_id
        answers = max(1, int((length - shown) * ANSWERED))
        picture_shape = (size.picture_px, size.picture_px, 3)
        pictures = tuple(rng.integers(0, 255, picture_shape, dtype=np.uint8) for _ in range(count))
        grids = [Grid(rows=side, cols=side)] * count
        rows.append(
            EncodedRow(
                input_ids=words.astype(np.int32),
                labels=np.where(np.arange(length) >= length - answers, words, IGNORE_INDEX).astype(np.int32),
                positions=multimodal_positions(np.arange(length) < shown, grids),
                media=RowMedia(images=pictures),
                points_px=np.full((count, 3, 2), np.nan, dtype=np.float32),
            )
        )
    return rows


def packed_batches(rows: Sequence[EncodedRow], micro_tokens: int) -> list[PackedBatch]:
    """As the training loop makes them."""
    (dealt,) = plan([len(row.input_ids) for row in rows], 1, micro_tokens)
    return [pack([rows[i] for i in part], pad_token_id=0, pad_to=ROUND_TO) for part in dealt]


def padded_batches(rows: Sequence[EncodedRow], count: int) -> list[PackedBatch]:
    """`count` conversations at a time, each as long as the longest: documents of equal length are a padded batch."""
    batches = []
    for first in range(0, len(rows), count):
        part = rows[first : first + count]
        longest = max(len(row.input_ids) for row in part)
        batches.append(pack([_filled(row, longest) for row in part], pad_token_id=0))
    return batches


def _filled(row: EncodedRow, length: int) -> EncodedRow:
    missing = length - len(row.input_ids)
    return replace(
        row,
        input_ids=np.pad(row.input_ids, (0, missing)),
        labels=np.pad(row.labels, (0, missing), constant_values=IGNORE_INDEX),
        positions=np.pad(row.positions, ((0, 0), (0, missing))),
    )


def _measure(
    module: nn.Module, autocast: Any, device: torch.device, sides: dict[str, list[PackedBatch]], rounds: int
) -> dict[str, tuple[float, float]]:
    """(median seconds of a round, loss) of each side; a round of each goes before, unmeasured."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, float] = {}
    for turn in range(rounds + 1):
        for name, batches in sides.items():
            module.zero_grad(set_to_none=True)
            began, total = time.perf_counter(), torch.zeros((), dtype=torch.float64)
            for batch in batches:
                with autocast:
                    language, _ = module(batch.to(device))
                language.backward()
                total += language.detach().double().cpu()
            if turn:
                seconds[name].append(time.perf_counter() - began)
            losses[name] = float(total)
    return {name: (statistics.median(seconds[name]), losses[name]) for name in sides}


def _summary(
    name: str,
    mix: Mix,
    rows: Sequence[EncodedRow],
    sides: dict[str, list[PackedBatch]],
    measured: dict[str, tuple[float, float]],
    config: Any,
    device: torch.device,
) -> dict[str, Any]:
    tokens = sum(len(row.input_ids) for row in rows)
    answers = sum(int((row.labels[1:] != IGNORE_INDEX).sum()) for row in rows)
    padding = 1 - tokens / sum(sum(batch.lengths) for batch in sides["padded"])
    rates = {side: tokens / seconds for side, (seconds, _) in measured.items()}
    losses = {side: total / answers for side, (_, total) in measured.items()}
    summary: dict[str, Any] = {
        "what": mix.what,
        "conversations": len(rows),
        "tokens": tokens,
        "padding_of_padded": round(padding, 3),
        "tokens_per_s_packed": round(rates["packed"], 1),
        "tokens_per_s_padded": round(rates["padded"], 1),
        "ratio": round(rates["packed"] / rates["padded"], 3),
        "loss_packed": round(losses["packed"], 6),
        "loss_padded": round(losses["padded"], 6),
    }
    print(
        f"{name}: {mix.what}\n  padding {padding:.0%}; packed {rates['packed']:,.0f} tokens/s, padded"
        f" {rates['padded']:,.0f}: {summary['ratio']:.2f} times; loss {losses['packed']:.5f}, {losses['padded']:.5f}",
        flush=True,
    )
    if peak := device_flops(device):
        work = sum(training_flops(config, batch) for batch in sides["packed"])
        summary["mfu_packed"] = round(work / measured["packed"][0] / peak, 4)
        print(f"  {summary['mfu_packed']:.1%} of the device's peak", flush=True)
    return summary


def _tiny_model() -> Any:
    from blm.model.backbone import build_tiny
    from blm.model.options import TinyBackboneConfig
    from blm.model.tokenizer import train_tokenizer

    config = TinyBackboneConfig()
    return build_tiny(config, train_tokenizer(["where is the cube?"] * 50, config.vocab_size))


def _large_model(device: torch.device) -> Any:
    """A Qwen2.5-VL-7B of random bfloat16 weights, with fewer blocks where memory is short."""
    from transformers import AutoModelForImageTextToText

    from blm.model.qwen_configs import qwen2_5_vl_config

    free, _ = torch.cuda.mem_get_info(device)
    blocks = int(min(28, max(1, (free - 20e9) / GPU_BYTES_PER_BLOCK)))
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            qwen2_5_vl_config("7b", num_hidden_layers=blocks), dtype=torch.bfloat16
        )
    compile_layers(model)
    return model
