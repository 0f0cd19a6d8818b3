"""Stage I: supervised fine-tuning of the multimodal LLM on the corpora; embodied knowledge in, language kept.

A published backbone is fine-tuned as it is. A tiny one is made from scratch: tokenizer trained on the corpora,
vision tower warmed up on where things are in the picture (GroundingHead), then everything on the conversations,
answers alone counting.

    blm stage1 --preset tiny
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from blm.model.errors import UserError
from blm.model.options import OptimizerName, Precision, TinyBackboneConfig
from blm.pipelines.workspace import StageContext, read_json

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage1Config:
    """What is trained, on how much, and how fast."""

    backbone: str = "tiny"
    """`tiny`: made from scratch as `tiny` says. Otherwise a local folder or a published Qwen2.5-VL by its hub
    name."""
    tiny: TinyBackboneConfig = field(default_factory=TinyBackboneConfig)
    """Size of the tiny backbone."""
    vision_steps: int = 600
    """Warm-up steps of a tiny backbone's vision tower on the grounding loss alone."""
    vision_batch: int = 48
    """Rows a step of the warm-up."""
    steps: int = 700
    """Optimiser steps on conversations."""
    batch: int = 32
    """Conversations a step, over all workers."""
    optimizer: OptimizerName = "muon"
    """`muon` for the blocks' matrices of a backbone made from scratch; `adamw` alone fine-tunes published ones."""
    learning_rate: float = 2e-3
    """AdamW's peak (Muon's is three times that); linear warm-up over `warmup` steps, then cosine to 5 % of it."""
    warmup: int = 40
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """AdamW's, on matrices alone."""
    clip_norm: float = 1.0
    """Gradients are clipped to this norm."""
    grounding_weight: float = 1.0
    """Weight of the grounding loss beside the language loss; 0 trains on language alone (published backbones)."""
    precision: Precision = "auto"
    """Of matrix products; weights stay float32. auto: as resources.dtype says, and bfloat16 on CPUs that have it."""
    max_length: int = 1024
    """Longest conversation in tokens; a longer one is an error."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Data parallelism: replicas, or parameters sharded over workers (FSDP2)."""
    eval_rows: int = 600
    """Held-out questions asked before and after."""
    checkpoint_every_s: float = 30.0
    """Seconds between training checkpoints."""

    def __post_init__(self) -> None:
        if self.optimizer == "muon" and self.parallel == "fsdp":
            raise UserError("stage1.optimizer muon needs whole matrices; set it to adamw, or stage1.parallel to ddp")
        for name in ("steps", "batch", "vision_batch", "max_length", "eval_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"stage1.{name} is {getattr(self, name)}; give 1 or more")
        if self.backbone == "tiny" and self.vision_steps > 0 and self.grounding_weight <= 0:
            raise UserError("stage1.vision_steps needs the grounding head; set stage1.grounding_weight above 0")


def stage1(config: Stage1Config, context: StageContext) -> dict[str, Any]:
    """Train, and write `model/` (a Hugging Face folder) and `metrics.json` (curve, held-out accuracy before and
    after)."""
    from blm.pipelines import sft_data, stage1_loop, workers

    out, corpora = context.out, context.inputs["corpora"]
    start = _starting_point(config, context, corpora)
    context.progress("tokenising the corpora")
    encoded = {
        split: sft_data.encode_corpus(
            corpora / split,
            out / "encoded" / split,
            stage1_loop.tokenizer_loader(start),
            cameras=context.world.cameras,
            max_length=config.max_length,
            blocks=context.resources.num_cpus,
        )
        for split in ("train", "test")
    }
    loop_config = {
        "stage": asdict(config),
        "start": start,
        "train": [str(path) for path in encoded["train"]],
        "test": [str(path) for path in encoded["test"]],
        "out": str(out),
        "seed": context.seed,
        "dtype": context.resources.dtype,
    }
    workers.fit(stage1_loop.train, loop_config, out, context.resources)
    metrics = read_json(out / "metrics.json")
    for point in metrics["curve"]:
        context.tracker.log_metrics({k: v for k, v in point.items() if k != "step"}, step=point["step"])
    accuracy = metrics["accuracy"]
    context.progress(
        f"held-out accuracy {accuracy['before']['all']:.1%} before, {accuracy['after']['all']:.1%} after"
        f" on {accuracy['n']['all']} questions"
    )
    return {
        "parameters": metrics["parameters"],
        "final_loss": metrics["curve"][-1]["loss"],
        "accuracy_before": accuracy["before"]["all"],
        "accuracy_after": accuracy["after"]["all"],
        "samples_per_s": metrics["samples_per_s"],
    }


def _starting_point(config: Stage1Config, context: StageContext, corpora: Path) -> str:
    """Where training starts from: the published name as given, or a fresh tiny folder under `out`."""
    if config.backbone != "tiny":
        return config.backbone
    from blm.model.backbone import build_tiny, make_processor, save_backbone
    from blm.model.tokenizer import train_tokenizer
    from blm.pipelines.sft_data import training_texts

    folder = context.out / "start"
    if not (folder / "config.json").is_file():
        context.progress("training the tokenizer and making the backbone")
        tokenizer = train_tokenizer(training_texts(corpora / "train"), config.tiny.vocab_size)
        save_backbone(folder, build_tiny(config.tiny, tokenizer, context.seed), make_processor(tokenizer))
    return str(folder)
